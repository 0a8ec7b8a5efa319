//! The embedded resolver as containers meet it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use common::{Lab, Namespace, OUTSIDE, attach, bridge_network, endpoint};
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE};
use skep_model::netstate::AttachRequest;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

const RESOLVER: &str = "127.0.0.11:53";

#[test]
#[ignore = "is netd itself, started by the laboratory"]
fn netd_process() {
    common::netd_process();
}

fn query(name: &str, kind: TYPE) -> Vec<u8> {
    let mut packet = Packet::new_query(99);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(Name::new(name).unwrap(), kind.into(), CLASS::IN.into(), false));
    packet.build_bytes_vec().unwrap()
}

/// The code and the records' texts of an answer.
fn text(reply: &[u8]) -> String {
    let packet = Packet::parse(reply).unwrap();
    assert_eq!(packet.id(), 99);
    let mut records: Vec<String> = packet
        .answers
        .iter()
        .map(|record| match &record.rdata {
            RData::A(a) => std::net::Ipv4Addr::from(a.address).to_string(),
            RData::PTR(name) => name.0.to_string(),
            other => format!("{other:?}"),
        })
        .collect();
    records.sort();
    let code = if packet.rcode() == RCODE::NoError { String::new() } else { format!("{:?}", packet.rcode()) };
    let cut = if packet.has_flags(PacketFlag::TRUNCATION) { "cut" } else { "" };
    format!("{code}{cut}{}", records.join(" "))
}

fn ask_udp(namespace: &Namespace, name: &str, kind: TYPE) -> String {
    let query = query(name, kind);
    namespace.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        socket.connect(RESOLVER).unwrap();
        socket.send(&query).unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{name}: {error}"));
        text(&buffer[..length])
    })
}

fn ask_tcp(namespace: &Namespace, name: &str, kind: TYPE) -> String {
    let query = query(name, kind);
    namespace.enter(|| {
        let mut stream = TcpStream::connect(RESOLVER).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        stream.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&query).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut reply).unwrap();
        text(&reply)
    })
}

/// A name server outside that gives every name the same address.
fn upstream(lab: &Lab) {
    let socket = lab.outside.enter(|| UdpSocket::bind((OUTSIDE, 53)).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let packet = Packet::parse(&buffer[..length]).unwrap();
            let mut reply = Packet::new_reply(packet.id());
            reply.questions = packet.questions.clone();
            reply.answers.push(simple_dns::ResourceRecord::new(
                packet.questions[0].qname.clone(),
                CLASS::IN,
                60,
                RData::A(simple_dns::rdata::A { address: std::net::Ipv4Addr::new(8, 8, 4, 4).into() }),
            ));
            let _ = socket.send_to(&reply.build_bytes_vec().unwrap(), client);
        }
    });
}

#[tokio::test]
async fn containers_resolve_each_other_and_the_world() {
    let lab = Lab::new();
    upstream(&lab);
    let (one, two) = (Namespace::new(), Namespace::new());
    lab.client.put_network(bridge_network(1)).await.unwrap();
    let with_upstream = |leg| AttachRequest {
        resolver: Some(skep_model::netstate::ResolverConfig { upstream: vec![OUTSIDE.parse().unwrap()] }),
        ..attach(vec![leg])
    };
    lab.client.attach(with_upstream(endpoint(1, 2, &one.path()))).await.unwrap();
    // A container may serve names itself.
    let _own = two.enter(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    lab.client.attach(with_upstream(endpoint(1, 3, &two.path()))).await.unwrap();

    assert_eq!(ask_udp(&one, "c3", TYPE::A), "172.30.1.3");
    assert_eq!(ask_udp(&two, "C2.net1", TYPE::A), "172.30.1.2");
    assert_eq!(ask_tcp(&two, "c2", TYPE::A), "172.30.1.2");
    assert_eq!(ask_udp(&one, "c3", TYPE::AAAA), "");
    assert_eq!(ask_udp(&one, "3.1.30.172.in-addr.arpa", TYPE::PTR), "c3.net1");
    assert_eq!(ask_udp(&one, "example.com", TYPE::A), "8.8.4.4");
    assert_eq!(ask_tcp(&one, "example.com", TYPE::A), "ServerFailure", "nobody answers by TCP there");
    lab.assert_converged().await;

    lab.client.detach(&endpoint(1, 3, &two.path()).container).await.unwrap();
    assert_eq!(ask_udp(&one, "c3", TYPE::A), "8.8.4.4");
}

#[tokio::test]
async fn resolvers_listen_again_on_the_same_port_after_a_crash() {
    let mut lab = Lab::new();
    let one = Namespace::new();
    lab.client.put_network(bridge_network(1)).await.unwrap();
    lab.client.attach(attach(vec![endpoint(1, 2, &one.path())])).await.unwrap();
    let before = one.run("nft -a list ruleset");
    lab.kill_netd();
    lab.start_netd();
    lab.assert_converged().await;
    assert_eq!(one.run("nft -a list ruleset"), before);
    assert_eq!(ask_udp(&one, "c2", TYPE::A), "172.30.1.2");
    assert_eq!(lab.client.status().await.unwrap().repairs, 0);
}
