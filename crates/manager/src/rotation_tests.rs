use super::*;
use skep_cluster::command::Command;

const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

fn cluster() -> Cluster {
    let authority = CertificateAuthority::create(NOW).unwrap();
    let root_ca = RootCa {
        cert_pem: authority.cert_pem().to_owned(),
        key_pem: authority.key_pem().to_owned(),
        digest: authority.digest().unwrap().as_str().to_owned(),
        worker_token: "old worker token".into(),
        ..RootCa::default()
    };
    Cluster { id: "c".into(), root_ca, ..Cluster::default() }
}

/// A node that says it has a certificate of `root_pem` and trusts what the swarm says.
fn node(id: &str, root_pem: &str, root_ca: &RootCa) -> Node {
    let mut node = Node { id: id.into(), ..Node::default() };
    node.status.state = NodeState::Ready;
    node.certificate.issuer = RootDigest::of_pem(root_pem).unwrap().as_str().to_owned();
    let issuer = Issuer::of_root(root_pem).unwrap();
    node.description.trust_root_pem = root_ca.trust_pem();
    node.description.cert_issuer_subject_der = issuer.subject_der;
    node.description.cert_issuer_public_key_der = issuer.public_key_der;
    node
}

/// Puts objects as they are, whatever was there.
fn put(store: &mut Store, objects: Vec<Object>) {
    let index = store.index() + 1;
    let writes = objects
        .into_iter()
        .map(|object| {
            let expected = store.get(&object.key()).map_or(0, |old| old.version());
            Write::Put { object, expected }
        })
        .collect();
    store.apply(index, &Command { id: index.to_string(), at: NOW, writes, independent: false }).unwrap();
}

fn put_nodes(store: &mut Store, nodes: impl IntoIterator<Item = Node>) {
    put(store, nodes.into_iter().map(|node| Object::Node(Box::new(node))).collect());
}

fn apply(store: &mut Store, writes: Vec<Write>) {
    let index = store.index() + 1;
    store.apply(index, &Command { id: index.to_string(), at: NOW, writes, independent: false }).unwrap();
}

fn asked(store: &Store) -> usize {
    store.nodes().filter(|node| node.certificate.renewal_due).count()
}

#[test]
fn a_rotation_goes_from_the_first_node_to_the_last() {
    let mut cluster = cluster();
    let old_pem = cluster.root_ca.cert_pem.clone();
    let mut store = Store::default();
    put(&mut store, vec![Object::Cluster(cluster.clone())]);
    put_nodes(&mut store, (0..40).map(|n| node(&format!("n{n:02}"), &old_pem, &cluster.root_ca)));
    assert_eq!(step(&store).unwrap(), Step::default(), "nothing to do before");

    cluster.spec.ca_force_rotate = 1;
    begin(&mut cluster, "", NOW).unwrap();
    let rotation = cluster.root_ca.rotation.clone().unwrap();
    assert!(cluster.root_ca.trust_pem().contains(old_pem.trim()));
    assert!(cluster.root_ca.trust_pem().contains(rotation.cert_pem.trim()));
    put(&mut store, vec![Object::Cluster(cluster.clone())]);
    let first = step(&store).unwrap();
    assert!(first.busy);
    apply(&mut store, first.writes);
    assert_eq!(asked(&store), RENEWALS_AT_ONCE);
    assert_eq!(step(&store).unwrap(), Step { writes: Vec::new(), busy: true }, "the others wait for their turn");

    // Ten have renewed: ten more are asked. One that is down is not, and holds up the end.
    let renewed = (0..10).map(|n| node(&format!("n{n:02}"), &rotation.cert_pem, &cluster.root_ca));
    put_nodes(&mut store, renewed);
    let mut down = Node::clone(store.node("n39").unwrap());
    down.status.state = NodeState::Down;
    put_nodes(&mut store, [down.clone()]);
    let writes = step(&store).unwrap().writes;
    apply(&mut store, writes);
    assert_eq!(asked(&store), 29);
    put_nodes(&mut store, (10..39).map(|n| node(&format!("n{n:02}"), &rotation.cert_pem, &cluster.root_ca)));
    assert_eq!(step(&store).unwrap(), Step { writes: Vec::new(), busy: true });

    // It comes back, and has a new certificate but does not trust the new root yet.
    let mut last = node("n39", &rotation.cert_pem, &cluster.root_ca);
    last.description.trust_root_pem = old_pem.clone();
    put_nodes(&mut store, [last.clone()]);
    assert!(step(&store).unwrap().writes.is_empty());
    last.description.trust_root_pem = cluster.root_ca.trust_pem();
    put_nodes(&mut store, [last]);
    let writes = step(&store).unwrap().writes;
    apply(&mut store, writes);
    let after = store.cluster().unwrap().root_ca.clone();
    assert_eq!((after.cert_pem, after.rotation), (rotation.cert_pem.clone(), None));
    let digest = RootDigest::of_pem(&rotation.cert_pem).unwrap();
    assert!(after.worker_token.contains(digest.as_str()) && after.manager_token.contains(digest.as_str()));
    // Nobody is asked to renew again; that they trust both roots still is told to them in the session.
    assert_eq!(step(&store).unwrap(), Step::default());
}

#[test]
fn the_user_may_bring_a_root_and_go_back() {
    let mut cluster = cluster();
    let (old_cert, old_key) = (cluster.root_ca.cert_pem.clone(), cluster.root_ca.key_pem.clone());
    let own = CertificateAuthority::create(NOW).unwrap();
    cluster.spec.signing_ca_cert = own.cert_pem().to_owned();
    let error = begin(&mut cluster, "", NOW).unwrap_err();
    assert!(error.message.contains("a signing CA key must be given"), "{error}");
    begin(&mut cluster, own.key_pem(), NOW).unwrap();
    assert_eq!(cluster.root_ca.rotation.as_ref().unwrap().cert_pem, own.cert_pem());

    // The same spec again, as `swarm update` sends it: nothing begins anew.
    let before = cluster.clone();
    begin(&mut cluster, "", NOW).unwrap();
    assert_eq!(cluster, before);

    // Another one instead; then back to the first, which is still there.
    cluster.spec.ca_force_rotate += 1;
    begin(&mut cluster, "", NOW).unwrap();
    assert_ne!(cluster.root_ca.rotation.as_ref().unwrap().cert_pem, own.cert_pem());
    assert!(cluster.spec.signing_ca_cert.is_empty());
    cluster.spec.signing_ca_cert = old_cert.clone();
    begin(&mut cluster, &old_key, NOW).unwrap();
    assert!(cluster.root_ca.rotation.is_none());
    assert_eq!(cluster.root_ca.cert_pem, old_cert);

    // Nodes that had moved are asked to move back.
    let mut store = Store::default();
    put(&mut store, vec![Object::Cluster(Cluster { root_ca: RootCa::default(), ..cluster.clone() })]);
    put_nodes(&mut store, [node("n", own.cert_pem(), &cluster.root_ca)]);
    put(&mut store, vec![Object::Cluster(cluster)]);
    let step = step(&store).unwrap();
    assert!(step.busy && step.writes.len() == 1);
}

#[test]
fn bad_roots_are_refused() {
    let check = |cert: &str, key: &str, expect: &str| {
        let mut cluster = cluster();
        cluster.spec.signing_ca_cert = cert.to_owned();
        let error = begin(&mut cluster, key, NOW).unwrap_err();
        assert!(error.message.contains(expect), "{error}");
        assert!(cluster.root_ca.rotation.is_none());
    };
    let (one, other) = (CertificateAuthority::create(NOW).unwrap(), CertificateAuthority::create(NOW).unwrap());
    check("garbage", one.key_pem(), "no certificate in the PEM text");
    check(one.cert_pem(), other.key_pem(), "invalid private key");
    check("", one.key_pem(), "without its certificate");
}
