use super::*;
use crate::testing::World;
use skep_model::{Error, ErrorKind};

const QUORUM: &str = "rpc error: code = FailedPrecondition desc = can't remove member from the raft: this would result \
                      in a loss of quorum";

/// A swarm whose nodes `n1`, `n2`, ... are managers, of which the named ones answer.
fn managers(count: usize, reachable: &[&str]) -> World {
    let mut world = World::with_nodes(count + 1);
    for number in 1..=count {
        let id = format!("n{number}");
        set_role(&mut world, &id, Role::Manager).unwrap();
        let writes = admit_manager(&world.store, &NodeId::from(id.as_str()), number as u64, "10.0.0.1:2377").unwrap();
        world.apply(writes).unwrap();
        let mut node = Node::clone(world.store.node(&id).unwrap());
        node.manager_status.as_mut().unwrap().reachable = reachable.contains(&id.as_str());
        world.apply(vec![Write::put(Object::Node(Box::new(node)))]).unwrap();
    }
    world.settle();
    world
}

fn set_role(world: &mut World, id: &str, role: Role) -> Result<(), Error> {
    let node = world.store.node(id).unwrap().clone();
    let spec = NodeSpec { role, ..node.spec.clone() };
    let writes = update_node(&world.store, &node.id, node.meta.version, spec)?;
    world.apply(writes).unwrap();
    Ok(())
}

fn role(world: &World, id: &str) -> Role {
    world.store.node(id).unwrap().role
}

#[test]
fn a_promotion_shows_at_once_and_a_demotion_when_the_node_is_out_of_raft() {
    let mut world = managers(3, &["n1", "n2", "n3"]);
    set_role(&mut world, "n4", Role::Manager).unwrap();
    world.settle();
    assert_eq!(role(&world, "n4"), Role::Manager);
    set_role(&mut world, "n3", Role::Worker).unwrap();
    world.settle();
    assert_eq!(role(&world, "n3"), Role::Manager, "it still votes");
    let out = Node { manager_status: None, ..Node::clone(world.store.node("n3").unwrap()) };
    world.apply(vec![Write::put(Object::Node(Box::new(out)))]).unwrap();
    world.settle();
    assert_eq!(role(&world, "n3"), Role::Worker);
}

#[test]
fn a_manager_is_demoted_only_when_the_others_are_a_majority() {
    let check = |reachable: &[&str], demoted: &str, expect: Result<(), &str>| {
        let mut world = managers(3, reachable);
        let result = set_role(&mut world, demoted, Role::Worker).map_err(|error| error.message);
        assert_eq!(result, expect.map_err(str::to_owned), "{reachable:?} without {demoted}");
    };
    check(&["n1", "n2", "n3"], "n1", Ok(()));
    check(&["n1", "n2"], "n3", Ok(()));
    check(&["n1", "n2"], "n2", Err(QUORUM));
}

#[test]
fn a_node_that_never_came_to_be_a_manager_may_be_demoted_again() {
    let mut world = managers(1, &["n1"]);
    set_role(&mut world, "n2", Role::Manager).unwrap();
    assert_eq!(set_role(&mut world, "n1", Role::Worker).unwrap_err().message, QUORUM);
    set_role(&mut world, "n2", Role::Worker).unwrap();
    let error = set_role(&mut world, "n1", Role::Worker).unwrap_err();
    assert!(error.message.ends_with("attempting to demote the last manager of the swarm"), "{error}");
}

#[test]
fn a_manager_is_removed_only_when_it_is_lost_and_by_force() {
    let check = |state: NodeState, reachable: &[&str], force: bool, expect: Result<(), &str>| {
        let mut world = managers(3, reachable);
        world.node_state("n3", state);
        let result = remove_node(&world.store, &"n3".into(), force).map_err(|error| error.message);
        assert_eq!(result.map(|_| ()), expect.map_err(str::to_owned), "{state:?} {reachable:?} {force}");
    };
    let member = "rpc error: code = FailedPrecondition desc = node n3 is a cluster manager and is a member of the raft \
                  cluster. It must be demoted to worker before removal";
    check(NodeState::Down, &["n1", "n2"], true, Ok(()));
    check(NodeState::Down, &["n1", "n2"], false, Err(member));
    check(NodeState::Ready, &["n1", "n2"], true, Err(member));
    check(NodeState::Down, &["n1", "n2", "n3"], true, Err(member));
    check(NodeState::Down, &["n1"], true, Err(QUORUM));
}

#[test]
fn only_nodes_that_are_to_be_managers_are_admitted() {
    let world = managers(1, &["n1"]);
    let kind = |id: &str| admit_manager(&world.store, &NodeId::from(id), 7, "10.0.0.2:2377").unwrap_err().kind;
    assert_eq!(kind("n2"), ErrorKind::InvalidArgument);
    assert_eq!(kind("nobody"), ErrorKind::NotFound);
    let known = world.store.node("n1").unwrap().manager_status.clone().unwrap();
    let again = admit_manager(&world.store, &"n1".into(), known.raft_id, &known.address).unwrap();
    assert_eq!(again, []);
}

#[test]
fn one_manager_left_alone_demotes_the_others() {
    let mut world = managers(3, &["n2"]);
    let writes = demote_others(&world.store, &"n2".into());
    world.apply(writes).unwrap();
    let roles: Vec<_> =
        world.store.nodes().map(|node| (node.role, node.spec.role, node.manager_status.is_some())).collect();
    let (worker, manager) = ((Role::Worker, Role::Worker, false), (Role::Manager, Role::Manager, true));
    assert_eq!(roles, [worker, manager, worker, worker]);
}
