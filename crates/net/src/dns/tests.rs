//! The server as its clients see it, over real sockets of the loopback interface.

use std::collections::BTreeMap;

use base::Stopper;
use hickory_proto::op::Query;
use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::A;
use proptest::prelude::*;

use super::*;

struct World {
    server: Server,
    tasks: Tasks,
    stopper: Stopper,
}

async fn world(zone: Zone, upstreams: Vec<SocketAddr>) -> World {
    let (tasks, stopper) = (Tasks::new(), Stopper::new());
    let config = Config { addresses: vec![([127, 0, 0, 1], 0).into()], upstreams };
    let (clock, random) = (Clock::system(), Random::seeded(3));
    let server =
        Server::start(&config, zone, &tasks, stopper.signal(), clock, random).await.expect("a free port");
    World { server, tasks, stopper }
}

impl World {
    fn address(&self) -> SocketAddr {
        self.server.addresses()[0]
    }

    async fn udp(&self, question: &[u8]) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        socket.send_to(question, self.address()).await.expect("sent");
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).await.expect("an answer");
        Message::from_vec(&buffer[..length]).expect("a message")
    }

    async fn tcp(&self, question: &[u8]) -> Message {
        let mut stream = TcpStream::connect(self.address()).await.expect("listening");
        stream.write_u16(question.len() as u16).await.expect("written");
        stream.write_all(question).await.expect("written");
        let mut buffer = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
        stream.read_exact(&mut buffer).await.expect("an answer");
        Message::from_vec(&buffer).expect("a message")
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("a message")
}

fn zone(endpoints: u8) -> Zone {
    let mut zone = Zone::new("cluster.local");
    zone.namespaces.insert("default".to_owned());
    let endpoint = |n| HeadlessEndpoint { hostname: None, address: [10, 1, 0, n].into(), ports: vec![] };
    let service = Service::Headless { endpoints: (0..endpoints).map(endpoint).collect() };
    zone.services = BTreeMap::from([(("default".to_owned(), "many".to_owned()), service)]);
    let external = Service::ExternalName("example.test".to_owned());
    zone.services.insert(("default".to_owned(), "out".to_owned()), external);
    zone
}

/// A resolver that answers every A question with 192.0.2.1 and counts them.
async fn resolver(world: &World, ttl_s: u32) -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("an address");
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (counter, stop) = (count.clone(), world.stopper.signal());
    world.tasks.spawn("resolver", async move {
        let mut buffer = [0; 4096];
        while let Some(Ok((length, client))) = stop.or(socket.recv_from(&mut buffer)).await {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut message = Message::from_vec(&buffer[..length]).expect("a question");
            message.metadata.message_type = MessageType::Response;
            let name = message.queries[0].name().clone();
            message.add_answer(Record::from_rdata(name, ttl_s, RData::A(A::new(192, 0, 2, 1))));
            socket.send_to(&bytes(&message), client).await.expect("sent");
        }
    });
    (address, count)
}

#[tokio::test]
async fn names_are_answered_over_udp_and_tcp_and_the_zone_can_be_swapped() {
    let world = world(zone(2), vec![]).await;
    let question = bytes(&question("Many.default.svc.cluster.local.", RecordType::A));
    for reply in [world.udp(&question).await, world.tcp(&question).await] {
        assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
        assert_eq!((reply.metadata.id, reply.answers.len()), (7, 2));
        assert_eq!(reply.answers[0].name.to_ascii(), "Many.default.svc.cluster.local.");
    }
    world.server.publish(zone(3));
    assert_eq!(world.udp(&question).await.answers.len(), 3);
    world.stopper.stop();
    assert!(world.tasks.join(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_zone_of_the_past_answers_what_it_knows_and_denies_nothing() {
    let world = world(zone(2).of_the_past(), vec![]).await;
    let known = world.udp(&bytes(&question("many.default.svc.cluster.local.", RecordType::A))).await;
    assert_eq!(known.answers.len(), 2);
    assert!(known.answers.iter().all(|record| record.ttl == 0), "it is not to be kept");
    // A Service that was made meanwhile, and the address of one.
    let new = bytes(&question("new.default.svc.cluster.local.", RecordType::A));
    let address = bytes(&question("9.0.1.10.in-addr.arpa.", RecordType::PTR));
    let asked = async { tokio::join!(world.udp(&new), world.tcp(&address)) };
    let published = async {
        // The two loops of the server, and whoever waits.
        while world.tasks.running() < 4 {
            tokio::task::yield_now().await;
        }
        let mut present = zone(3);
        let endpoint = HeadlessEndpoint { hostname: None, address: [10, 1, 0, 9].into(), ports: vec![] };
        let service = Service::Headless { endpoints: vec![endpoint] };
        present.services.insert(("default".to_owned(), "new".to_owned()), service);
        world.server.publish(present);
    };
    let ((first, second), ()) = tokio::join!(asked, published);
    for reply in [first, second] {
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 1));
    }
    let gone = world.udp(&bytes(&question("no.default.svc.cluster.local.", RecordType::A))).await;
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn a_question_that_waits_in_vain_is_a_failure_and_no_denial() {
    let question = bytes(&question("no.default.svc.cluster.local.", RecordType::A));
    let (Step::Hold(reply), _) = begin(&zone(2).of_the_past(), &question) else { panic!("it is held") };
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn absence_carries_the_authority_with_a_short_life() {
    let world = world(zone(2), vec![]).await;
    let reply = world.udp(&bytes(&question("no.default.svc.cluster.local.", RecordType::A))).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert!(matches!(&reply.authorities[0].data, RData::SOA(soa) if soa.minimum == DEFAULT_TTL_S));
    let reply = world.udp(&bytes(&question("many.default.svc.cluster.local.", RecordType::MX))).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert_eq!((reply.answers.len(), reply.authorities.len()), (0, 1));
}

#[tokio::test]
async fn long_answers_are_cut_over_udp_and_whole_over_tcp() {
    let world = world(zone(200), vec![]).await;
    let mut question = question("many.default.svc.cluster.local.", RecordType::A);
    let reply = world.udp(&bytes(&question)).await;
    assert!(reply.metadata.truncation && !reply.answers.is_empty());
    assert!(bytes(&reply).len() <= 512);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    question.set_edns(edns);
    let larger = world.udp(&bytes(&question)).await;
    assert!(larger.metadata.truncation && larger.answers.len() > reply.answers.len());
    assert!(larger.edns.is_some() && bytes(&larger).len() <= 1232);
    assert_eq!(world.tcp(&bytes(&question)).await.answers.len(), 200);
}

#[tokio::test]
async fn other_names_are_asked_for_once_and_kept() {
    let helper = world(zone(0), vec![]).await;
    let (upstream, count) = resolver(&helper, 60).await;
    let world = world(zone(0), vec![upstream]).await;
    for _ in 0..3 {
        let reply = world.udp(&bytes(&question("example.test.", RecordType::A))).await;
        assert_eq!(reply.answers.len(), 1);
        assert!(!reply.metadata.authoritative);
    }
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1);
    let reply = world.udp(&bytes(&question("out.default.svc.cluster.local.", RecordType::A))).await;
    let kinds: Vec<RecordType> = reply.answers.iter().map(Record::record_type).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1, "the alias' target was kept too");
}

#[tokio::test]
async fn a_dead_resolver_is_passed_over_and_none_at_all_is_a_failure() {
    let helper = world(zone(0), vec![]).await;
    let (upstream, _) = resolver(&helper, 0).await;
    let closed = UdpSocket::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let with_dead = world(zone(0), vec![closed, upstream]).await;
    assert_eq!(with_dead.udp(&bytes(&question("a.test.", RecordType::A))).await.answers.len(), 1);
    let alone = world(zone(0), vec![]).await;
    let reply = alone.udp(&bytes(&question("a.test.", RecordType::A))).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_loop_between_resolvers_ends() {
    // The upstream sends every question straight back to us.
    let mirror = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let upstream = mirror.local_addr().expect("an address");
    let world = world(zone(0), vec![upstream]).await;
    let (back, stop) = (world.address(), world.stopper.signal());
    let seen = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = seen.clone();
    world.tasks.spawn("mirror", async move {
        let mut buffer = [0; 4096];
        while let Some(Ok((length, from))) = stop.or(mirror.recv_from(&mut buffer)).await {
            if from != back {
                counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                mirror.send_to(&buffer[..length], back).await.expect("sent");
            }
        }
    });
    let reply = world.udp(&bytes(&question("loop.test.", RecordType::A))).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(seen.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_busy_address_is_named() {
    let world = world(zone(0), vec![]).await;
    let config = Config { addresses: vec![world.address()], upstreams: vec![] };
    let second = Server::start(
        &config,
        zone(0),
        &world.tasks,
        world.stopper.signal(),
        Clock::system(),
        Random::seeded(4),
    );
    assert!(matches!(second.await, Err(DnsError::Busy(address)) if address == world.address()));
}

#[tokio::test]
async fn what_is_no_plain_question_is_refused_with_its_reason() {
    let world = world(zone(1), vec![]).await;
    let mut two = question("a.test.", RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::A));
    assert_eq!(world.udp(&bytes(&two)).await.metadata.response_code, ResponseCode::FormErr);
    let any = bytes(&question("many.default.svc.cluster.local.", RecordType::ANY));
    assert_eq!(world.udp(&any).await.metadata.response_code, ResponseCode::NotImp);
    let mut update = question("cluster.local.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(world.udp(&bytes(&update)).await.metadata.response_code, ResponseCode::NotImp);
    let mut cut = bytes(&question("cluster.local.", RecordType::SOA));
    cut.truncate(14);
    assert_eq!(world.udp(&cut).await.metadata.response_code, ResponseCode::FormErr);
}

proptest! {
    #[test]
    fn no_packet_makes_the_server_panic(packet in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let (Step::Reply(reply), limit) = begin(&zone(3), &packet) && let Some(bytes) = encode(&reply, limit) {
            prop_assert!(bytes.len() <= usize::from(limit));
        }
    }

    #[test]
    fn no_damaged_question_makes_the_server_panic(
        label in "[a-zA-Z0-9_.-]{0,40}",
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let Ok(name) = Name::from_ascii(format!("{label}.svc.cluster.local.")) else { return Ok(()) };
        let mut message = Message::new(1, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(name, RecordType::SRV));
        let Ok(mut packet) = message.to_vec() else { return Ok(()) };
        for (at, value) in damage {
            let at = at.index(packet.len());
            packet[at] = value;
        }
        match begin(&zone(3), &packet) {
            (Step::Reply(reply), limit) => prop_assert!(encode(&reply, limit).is_some()),
            (Step::Ask { .. } | Step::Hold(_) | Step::Ignore, _) => {}
        }
    }
}
