use super::*;
use TaskState::*;

const NOW: Timestamp = Timestamp(1_000_000_000_000);

fn status(state: TaskState) -> TaskStatus {
    TaskStatus { state, message: "before".into(), ..TaskStatus::default() }
}

fn container(exit_code: i32) -> TaskContainerStatus {
    TaskContainerStatus { container_id: "c1".into(), pid: 0, ipv6: false, exit_code }
}

fn situation(status: &TaskStatus, desired: TaskState, outcome: Option<Outcome>) -> Situation<'_> {
    Situation { status, desired, start_not_before: Timestamp::NEVER, outcome, failures: 0, removed: false, now: NOW }
}

/// (state, desired, outcome) -> (state, message, err, action)
fn check(
    from: TaskState,
    desired: TaskState,
    outcome: Option<Outcome>,
    expect: (TaskState, &str, &str, Action),
) -> TaskStatus {
    let status = status(from);
    let step = step(&situation(&status, desired, outcome.clone()));
    let got = (step.status.state, step.status.message.as_str(), step.status.err.as_str(), step.action);
    assert_eq!(got, expect, "{from:?} wanted {desired:?} after {outcome:?}");
    step.status
}

fn exited(code: i32) -> Outcome {
    Outcome::Exited { container: container(code), cause: String::new() }
}

fn failed(message: &str, passing: bool) -> Option<Outcome> {
    Some(Outcome::Failed { message: message.into(), passing })
}

fn started(healthy: bool) -> Option<Outcome> {
    Some(Outcome::Started(Started { container: container(0), ports: Vec::new(), healthy }))
}

#[test]
fn climbs_to_running() {
    check(Assigned, Running, None, (Accepted, "accepted", "", Action::Again));
    check(Accepted, Running, None, (Preparing, "preparing", "", Action::Again));
    check(Preparing, Running, None, (Preparing, "before", "", Action::Prepare));
    check(Preparing, Running, Some(Outcome::Prepared), (Ready, "prepared", "", Action::Again));
    check(Ready, Running, None, (Starting, "starting", "", Action::Again));
    check(Starting, Running, None, (Starting, "before", "", Action::Start));
    let running = check(Starting, Running, started(true), (Running, "started", "", Action::Again));
    assert_eq!(running.container, Some(container(0)));
    check(Running, Running, None, (Running, "before", "", Action::AwaitExit));
}

#[test]
fn jobs_climb_the_same_way() {
    check(Ready, Complete, None, (Starting, "starting", "", Action::Again));
    check(Running, Complete, None, (Running, "before", "", Action::AwaitExit));
    check(Running, Complete, Some(exited(0)), (Complete, "finished", "", Action::Again));
}

#[test]
fn stays_starting_until_healthy() {
    check(Starting, Running, started(false), (Starting, "before", "", Action::AwaitHealthy));
    check(Starting, Running, Some(Outcome::Healthy), (Running, "started", "", Action::Again));
    check(Starting, Running, Some(Outcome::Unhealthy), (Starting, "before", "", Action::StopUnhealthy));
    check(Starting, Running, Some(exited(1)), (Failed, "before", "task: non-zero exit (1)", Action::Again));
}

#[test]
fn a_container_that_was_started_before_is_looked_at_again_not_trusted() {
    let status = TaskStatus { container: Some(container(0)), ..status(Starting) };
    assert_eq!(step(&situation(&status, Running, None)).action, Action::Start);
}

#[test]
fn unhealthy_containers_are_stopped_and_fail() {
    check(Running, Running, Some(Outcome::Unhealthy), (Running, "before", "", Action::StopUnhealthy));
    check(
        Running,
        Running,
        Some(Outcome::StoppedUnhealthy(Some(container(137)))),
        (Failed, "before", "task: non-zero exit (137): dockerexec: unhealthy container", Action::Again),
    );
    check(
        Running,
        Running,
        Some(Outcome::StoppedUnhealthy(Some(container(0)))),
        (Failed, "before", "dockerexec: unhealthy container", Action::Again),
    );
}

#[test]
fn ends_by_itself() {
    check(Running, Running, Some(exited(0)), (Complete, "finished", "", Action::Again));
    let ended =
        check(Running, Running, Some(exited(137)), (Failed, "before", "task: non-zero exit (137)", Action::Again));
    assert_eq!(ended.container, Some(container(137)));
    assert_eq!(ended.timestamp, NOW);
}

#[test]
fn errors_reject_before_starting_and_fail_after() {
    let missing = "No such image: x:latest";
    check(Preparing, Running, failed(missing, false), (Rejected, "before", missing, Action::Again));
    check(Starting, Running, failed("no port", false), (Failed, "before", "no port", Action::Again));
    check(Running, Running, failed("gone", false), (Failed, "before", "gone", Action::Again));
}

#[test]
fn passing_errors_are_tried_again_with_growing_delay_and_a_limit() {
    let preparing = status(Preparing);
    let with_failures =
        |failures| step(&Situation { failures, ..situation(&preparing, Running, failed("netd is away", true)) });
    let first = with_failures(0);
    assert_eq!(first.action, Action::HoldUntil(NOW.plus(Duration::from_millis(100))));
    assert_eq!((first.status.state, first.status.err.as_str()), (Preparing, "netd is away"));
    assert_eq!(with_failures(3).action, Action::HoldUntil(NOW.plus(Duration::from_millis(800))));
    assert_eq!(with_failures(9).action, Action::HoldUntil(NOW.plus(Duration::from_secs(8))));
    assert_eq!(with_failures(10).status.state, Rejected);
}

#[test]
fn holds_at_ready_while_nobody_wants_more() {
    check(Ready, Ready, None, (Ready, "before", "", Action::Hold));
    check(Assigned, Ready, None, (Accepted, "accepted", "", Action::Again));
    check(Preparing, Accepted, None, (Preparing, "before", "", Action::Prepare));
}

#[test]
fn holds_at_ready_before_its_time() {
    let ready = status(Ready);
    let at = NOW.plus(Duration::from_secs(5));
    let early = Situation { start_not_before: at, ..situation(&ready, Running, None) };
    assert_eq!(step(&early).action, Action::HoldUntil(at));
    let due = Situation { now: at, ..early };
    assert_eq!(step(&due).status.state, Starting);
}

#[test]
fn shutdown_stops_from_any_living_state() {
    for from in [Assigned, Accepted, Preparing, Ready, Starting, Running] {
        for desired in [Shutdown, Remove] {
            check(from, desired, None, (from, "before", "", Action::Stop));
            check(from, desired, Some(Outcome::Stopped(None)), (Shutdown, "shutdown", "", Action::Again));
        }
    }
}

#[test]
fn a_failed_stop_is_never_believed() {
    for failures in [0, 5, 1000] {
        let running = status(Running);
        let failed = Situation { failures, ..situation(&running, Shutdown, failed("stuck", false)) };
        let step = step(&failed);
        assert_eq!(step.status.state, Running);
        assert!(matches!(step.action, Action::HoldUntil(_)));
    }
}

#[test]
fn an_exit_while_shutting_down_keeps_its_own_verdict() {
    check(Running, Shutdown, Some(exited(0)), (Complete, "finished", "", Action::Again));
    check(Complete, Shutdown, None, (Complete, "before", "", Action::Hold));
}

#[test]
fn remove_also_removes_the_container_once() {
    for from in [Complete, Shutdown, Failed, Rejected] {
        check(from, Remove, None, (from, "before", "", Action::Remove));
        check(from, Shutdown, None, (from, "before", "", Action::Hold));
        let status = status(from);
        let done = Situation { removed: true, ..situation(&status, Remove, Some(Outcome::Removed)) };
        assert_eq!(step(&done), Step { status: status.clone(), action: Action::Hold });
    }
}

#[test]
fn never_goes_back() {
    let states = [
        New, Pending, Assigned, Accepted, Preparing, Ready, Starting, Running, Complete, Shutdown, Failed, Rejected,
        Orphaned,
    ];
    let outcomes = || {
        [
            None,
            Some(Outcome::Prepared),
            started(true),
            started(false),
            Some(Outcome::Healthy),
            Some(Outcome::Unhealthy),
            Some(exited(0)),
            Some(exited(1)),
            Some(Outcome::Stopped(None)),
            Some(Outcome::StoppedUnhealthy(Some(container(137)))),
            Some(Outcome::Removed),
            failed("x", true),
            failed("x", false),
        ]
    };
    for from in states {
        for desired in [Ready, Running, Complete, Shutdown, Remove] {
            for outcome in outcomes() {
                let status = status(from);
                let after = step(&situation(&status, desired, outcome.clone())).status;
                assert!(after.state >= from, "{from:?} {desired:?} {outcome:?} -> {:?}", after.state);
                assert!(!from.is_terminal() || after.state == from, "{from:?} is an end");
            }
        }
    }
}
