//! A client that writes through one manager, one write after the other, for as long as that
//! manager lives.

use crate::oracle::{WRITERS, Wish, count_of, counted};
use crate::shared::{MANAGERS, Shared};
use skep_manager::Control;
use skep_model::secret::ConfigSpec;
use skep_model::service::ServiceSpec;
use skep_model::{ErrorKind, Result};
use std::rc::Rc;
use std::time::Duration;

/// A write is done or refused by then, whatever happens.
const ANSWER_WITHIN: Duration = Duration::from_secs(25);

/// The writers of a manager.
pub(crate) fn of_manager(manager: usize) -> impl Iterator<Item = usize> {
    (0..WRITERS).filter(move |writer| writer % MANAGERS == manager)
}

pub(crate) async fn run(shared: Rc<Shared>, writer: usize, control: Control) {
    loop {
        let pause = shared.oracle.borrow_mut().pause(writer);
        tokio::time::sleep(pause).await;
        if !shared.writing.get() {
            continue;
        }
        let wish = shared.oracle.borrow_mut().wish(writer);
        let Ok(answer) = tokio::time::timeout(ANSWER_WITHIN, write(&control, &wish)).await else {
            return shared.broken(format!("writer{writer} {wish}: no answer in {ANSWER_WITHIN:?}"));
        };
        match &answer {
            Ok(count) => shared.note(format_args!("writer{writer} {wish}: done {count}")),
            Err(error) => shared.note(format_args!("writer{writer} {wish}: {}", error.message)),
        }
        let broken = shared.oracle.borrow_mut().answered(writer, &wish, &answer);
        if let Some(rule) = broken {
            shared.broken(rule);
        }
    }
}

/// Answers how far the service counts, 0 where there is none.
async fn write(control: &Control, wish: &Wish) -> Result<u64> {
    match wish {
        Wish::CreateConfig { name } => {
            let data = format!("the content of {name}").repeat(1 + name.len() % 5);
            let spec = ConfigSpec { name: name.clone(), data: data.into_bytes(), ..ConfigSpec::default() };
            control.create_config(spec).await.map(|_| 0)
        }
        Wish::RemoveConfig { name } => control.remove_config(name).await.map(|()| 0),
        Wish::Service { name, replicas } => match control.service(name) {
            Ok(service) => {
                let spec = counted(service.spec.clone(), *replicas);
                let count = count_of(&spec);
                control.update_service(name, service.meta.version, spec, false).await.map(|()| count)
            }
            Err(error) if error.kind == ErrorKind::NotFound => {
                let spec = counted(new_service(name), *replicas);
                control.create_service(spec).await.map(|_| 1)
            }
            Err(error) => Err(error),
        },
    }
}

/// Without networks, and with tasks that are restarted soon.
fn new_service(name: &str) -> ServiceSpec {
    let mut spec = ServiceSpec { name: name.to_owned(), ..ServiceSpec::default() };
    spec.task.container.image = "example/app:1".into();
    spec.task.restart.delay = Duration::from_millis(100);
    spec
}
