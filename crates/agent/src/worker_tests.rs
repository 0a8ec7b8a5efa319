use super::*;
use crate::testing::{FakeExecutor, message, removed, shared, task, updated};
use TaskState::*;
use std::time::Duration;

/// A worker on a fake machine, with the reports it makes taken as acknowledged.
struct World {
    directory: tempfile::TempDir,
    executor: Arc<FakeExecutor>,
    shared: Arc<Shared>,
    worker: Worker,
    generation: u64,
}

impl World {
    fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap(), Arc::new(FakeExecutor::default()))
    }

    fn on(directory: tempfile::TempDir, executor: Arc<FakeExecutor>) -> Self {
        let shared = shared(directory.path(), executor.clone());
        let worker = Worker::open(shared.clone()).unwrap();
        Self { directory, executor, shared, worker, generation: 0 }
    }

    /// The daemon dies and comes back; the machine goes on.
    async fn restart(self) -> Self {
        let Self { directory, executor, shared, mut worker, .. } = self;
        for (_, running) in std::mem::take(&mut worker.running) {
            running.handle.abort();
            let _ = running.handle.await;
        }
        drop((worker, shared));
        Self::on(directory, executor)
    }

    async fn complete(&mut self, tasks: &[Task]) {
        self.generation += 1;
        let changes = tasks.iter().map(updated).collect();
        self.worker.apply(&message(Kind::Complete, 0, self.generation, changes)).await.unwrap();
    }

    async fn change(&mut self, changes: Vec<skep_proto::dispatcher::AssignmentChange>) {
        let from = self.generation;
        self.generation += 1;
        self.worker.apply(&message(Kind::Incremental, from, self.generation, changes)).await.unwrap();
    }

    async fn reaches(&self, id: &str, state: TaskState) -> TaskStatus {
        let mut status = self.worker.running[id].status.clone();
        let reached = status.wait_for(|status| status.state == state);
        let reached = tokio::time::timeout(Duration::from_secs(10), reached).await;
        reached.unwrap_or_else(|_| panic!("{id} never reached {state:?}")).unwrap().clone()
    }

    async fn is_forgotten(&mut self, id: &str) {
        let running = self.worker.running.get_mut(id).unwrap();
        tokio::time::timeout(Duration::from_secs(10), &mut running.handle).await.unwrap().unwrap();
        assert!(self.shared.db.tasks().unwrap().iter().all(|task| task.id.as_str() != id));
    }
}

#[tokio::test]
async fn an_assigned_task_runs_and_its_end_is_reported() {
    let mut world = World::new();
    world.complete(&[task("t1", Running)]).await;
    world.reaches("t1", Running).await;
    world.executor.exit("t1", 3);
    let status = world.reaches("t1", Failed).await;
    assert_eq!(status.err, "task: non-zero exit (3)");
    assert_eq!(world.executor.log(), ["prepare t1", "start t1"]);
    assert_eq!(world.shared.reporter.next_batch().await.states(), [("t1".to_owned(), Failed)]);
}

#[tokio::test]
async fn a_task_waits_prepared_until_it_is_wanted() {
    let mut world = World::new();
    world.complete(&[task("t1", Ready)]).await;
    world.reaches("t1", Ready).await;
    assert_eq!(world.executor.log(), ["prepare t1"]);
    world.change(vec![updated(&task("t1", Running))]).await;
    world.reaches("t1", Running).await;
}

#[tokio::test]
async fn a_health_check_holds_a_task_in_starting() {
    let mut world = World::new();
    world.executor.use_health_check();
    world.complete(&[task("t1", Running)]).await;
    let starting = world.reaches("t1", Starting).await;
    assert_eq!(starting.message, "starting");
    while world.executor.log().len() < 2 {
        tokio::task::yield_now().await;
    }
    world.executor.become_healthy("t1");
    world.reaches("t1", Running).await;
}

#[tokio::test]
async fn shutdown_stops_and_removal_forgets() {
    let mut world = World::new();
    world.complete(&[task("t1", Running)]).await;
    world.reaches("t1", Running).await;
    world.change(vec![updated(&task("t1", Shutdown))]).await;
    let status = world.reaches("t1", Shutdown).await;
    assert_eq!((status.message.as_str(), status.container.unwrap().exit_code), ("shutdown", 143));
    world.change(vec![removed(&task("t1", Shutdown))]).await;
    world.is_forgotten("t1").await;
    assert_eq!(world.executor.log(), ["prepare t1", "start t1", "stop t1", "remove t1"]);
}

#[tokio::test]
async fn a_running_task_that_is_no_longer_assigned_is_stopped_first() {
    let mut world = World::new();
    world.complete(&[task("t1", Running)]).await;
    world.reaches("t1", Running).await;
    world.complete(&[]).await;
    world.is_forgotten("t1").await;
    assert_eq!(world.executor.log()[2..], ["stop t1", "remove t1"]);
}

#[tokio::test]
async fn a_pull_is_given_up_when_the_task_is_to_end() {
    let mut world = World::new();
    world.executor.hang_pull();
    world.complete(&[task("t1", Running)]).await;
    world.reaches("t1", Preparing).await;
    world.change(vec![updated(&task("t1", Shutdown))]).await;
    world.reaches("t1", Shutdown).await;
}

#[tokio::test]
async fn a_missing_image_rejects_and_a_passing_error_does_not() {
    let mut world = World::new();
    world.executor.fail_prepare(Some(Error::not_found("No such image: x:latest")));
    world.complete(&[task("t1", Running)]).await;
    assert_eq!(world.reaches("t1", Rejected).await.err, "No such image: x:latest");
    world.executor.fail_prepare(Some(Error::unavailable("netd is away")));
    world.change(vec![updated(&task("t2", Running))]).await;
    world.reaches("t2", Preparing).await;
    world.executor.fail_prepare(None);
    assert_eq!(world.reaches("t2", Running).await.err, "");
}

#[tokio::test]
async fn a_restarted_agent_takes_up_its_tasks_and_starts_none_twice() {
    let mut world = World::new();
    world.complete(&[task("t1", Running), task("t2", Ready)]).await;
    world.reaches("t1", Running).await;
    world.reaches("t2", Ready).await;
    let mut world = world.restart().await;
    // Without a manager: what runs is watched, what does not is not begun.
    world.executor.exit("t1", 1);
    world.reaches("t1", Failed).await;
    assert!(world.executor.log().iter().all(|line| line != "start t2"));
    world.complete(&[task("t1", Running), task("t2", Running)]).await;
    world.reaches("t2", Running).await;
    let starts = world.executor.log().iter().filter(|line| line.starts_with("start t1")).count();
    assert_eq!(starts, 1);
    // The manager still has the old states: it is told what it missed.
    let states = world.shared.reporter.next_batch().await.states();
    assert!(states.contains(&("t1".to_owned(), Failed)), "{states:?}");
}

#[tokio::test]
async fn strangers_are_removed_after_the_first_complete_set_and_not_before() {
    let world = World::new();
    world.executor.add_container("stranger");
    let mut world = world.restart().await;
    assert!(world.executor.log().is_empty());
    world.complete(&[]).await;
    assert_eq!(world.executor.log(), ["remove stranger"]);
}

#[tokio::test]
async fn leaving_removes_every_container() {
    let mut world = World::new();
    world.complete(&[task("t1", Running)]).await;
    world.reaches("t1", Running).await;
    world.worker.remove_all().await.unwrap();
    assert_eq!(world.executor.log().last().unwrap(), "remove t1");
}
