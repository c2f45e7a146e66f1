//! Pods on a bridge and a Service before them, in the kernel. Needs root; everything lives in network namespaces of
//! its own and dies with them.

mod sys;

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::interface::{Answer, Api, Call, List, Watch, WatchEvent, WatchStream};
use api::json;
use api::names::Resource;
use api::object::Object;
use api::status::Status;
use api::value::Value;
use base::{Clock, Random, Stopper, Tasks};
use control::recorder::Recorder;
use control::world::World;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use net::instance::Instance;
use net::rules::{Frame, Rules};
use node::context::PodNetwork;
use node::network::{BridgeNetwork, Settings};
use node::services::{self, Facts, Hands, Services};
use rustix::thread::LinkNameSpaceType;
use tokio::sync::mpsc;

/// Fivefold what is promised for a change of a Service (100 ms), as all deadlines of tests.
const MOVED_WITHIN: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(5);

/// A network namespace of its own.
#[derive(Clone)]
struct Space(Arc<OwnedFd>);

impl Space {
    fn new() -> Self {
        let made = std::thread::spawn(|| {
            sys::unshare_network().expect("root is needed for network namespaces");
            std::fs::File::open("/proc/thread-self/ns/net").expect("our own namespace")
        });
        Self(Arc::new(made.join().expect("made").into()))
    }

    fn run<R: Send>(&self, action: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(self.0.as_fd(), kind).expect("entered");
                action()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Says `word` to everyone who connects to port 8080.
    fn serve(&self, word: &'static str) {
        let listener = self.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).expect("a free port"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let said =
                    stream.and_then(|mut stream| std::io::Write::write_all(&mut stream, word.as_bytes()));
                drop(said);
            }
        });
    }

    /// What a server says, or why not.
    fn ask(&self, address: SocketAddr) -> Result<String, std::io::ErrorKind> {
        self.run(|| say(address))
    }
}

/// An API of some collections; events are what the test sends, and patches of the Node are kept.
#[derive(Default)]
struct Cluster {
    objects: Mutex<Vec<Arc<Object>>>,
    patches: Mutex<Vec<String>>,
    watchers: Mutex<Vec<(Resource, mpsc::UnboundedSender<WatchEvent>)>>,
}

impl Cluster {
    fn kind_of(resource: &Resource) -> &'static str {
        match resource.resource.as_str() {
            "services" => "Service",
            "endpointslices" => "EndpointSlice",
            "pods" => "Pod",
            "nodes" => "Node",
            _ => "Namespace",
        }
    }

    fn put(&self, tree: &Value) {
        let object = Arc::new(Object::from_tree(tree).expect("the test's object is right"));
        self.objects.lock().unwrap().push(object.clone());
        for (resource, sender) in &*self.watchers.lock().unwrap() {
            if Self::kind_of(resource) == object.kind().kind {
                let _ = sender.send(WatchEvent::Modified(object.clone()));
            }
        }
    }
}

impl Api for Cluster {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Status>> {
        let objects = self.objects.lock().unwrap();
        let collection = match call {
            Call::List(collection, _) => collection,
            Call::Patch(target, _, body, _) => {
                assert_eq!((target.resource.resource.as_str(), target.name.as_str()), ("nodes", "n"));
                self.patches.lock().unwrap().push(String::from_utf8(body.to_vec()).expect("JSON"));
                let node = objects.iter().find(|object| object.kind().kind == "Node").expect("it is there");
                let node = node.clone();
                return async move { Ok(Answer::Object(node)) }.boxed();
            }
            _ => panic!("nothing else is asked"),
        };
        let kind = Self::kind_of(&collection.resource);
        let items = objects.iter().filter(|object| object.kind().kind == kind).cloned().collect();
        let list = List { revision: 1, items, ..List::default() };
        async move { Ok(Answer::List(list)) }.boxed()
    }

    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream, Status>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.watchers.lock().unwrap().push((watch.collection.resource, sender));
        let events = futures::stream::unfold(receiver, |mut receiver| async move {
            Some((Ok(receiver.recv().await?), receiver))
        });
        async move { Ok(events.boxed()) }.boxed()
    }
}

fn slice(revision: &str, endpoints: &[IpAddr]) -> Value {
    let endpoints =
        endpoints.iter().map(|address| json!({"addresses": [(address.to_string())], "nodeName": "n"}));
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": "web-1", "namespace": "shop", "uid": "s", "resourceVersion": revision,
            "labels": {"kubernetes.io/service-name": "web"}
        },
        "endpoints": (Value::Array(endpoints.collect())), "ports": [{"name": "", "port": 8080}]
    })
}

fn service(namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "uid": name, "resourceVersion": "1"},
        "spec": spec
    })
}

/// A pod of this node with a host port everywhere and one on the loopback.
fn with_host_port(revision: &str, address: IpAddr, phase: &str) -> Value {
    let ports = json!([
        {"containerPort": 8080, "hostPort": 18080},
        {"containerPort": 8080, "hostPort": 18081, "hostIP": "127.0.0.1"}
    ]);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "blue", "namespace": "shop", "uid": "blue", "resourceVersion": revision},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": phase, "podIP": (address.to_string()), "podIPs": [{"ip": (address.to_string())}]}
    })
}

/// What a server says to the namespace of the calling thread.
fn say(address: SocketAddr) -> Result<String, std::io::ErrorKind> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| error.kind())?;
    let mut word = String::new();
    stream.read_to_string(&mut word).map_err(|error| error.kind())?;
    Ok(word)
}

/// What the Node was last told to tell of its ports, a line each.
fn last_told(cluster: &Cluster) -> Vec<String> {
    let patches = cluster.patches.lock().unwrap();
    let Some(last) = patches.last() else { return Vec::new() };
    let tree = api::value::parse(last.as_bytes()).expect("JSON");
    let text = tree.str_at(&["metadata", "annotations", "ondol.dev/ports"]).expect("the annotation");
    let ports = api::value::parse(text.as_bytes()).expect("JSON");
    let ports = ports.as_object().expect("an object").iter();
    ports.map(|(at, program)| format!("{at}={}", program.as_str().unwrap_or_default())).collect()
}

/// Whether the cluster's name server says that `web.shop.svc.cluster.local` is 10.96.0.9.
fn is_named(space: &Space) -> bool {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["web", "shop", "svc", "cluster", "local"] {
        question.push(label.len() as u8);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    space.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.send_to(&question, (Ipv4Addr::new(10, 96, 0, 10), 53)).expect("sent");
        let mut answer = [0; 512];
        let count = socket.recv(&mut answer).unwrap_or_default();
        answer[..count].ends_with(&[10, 96, 0, 9])
    })
}

#[test]
fn a_services_connections_move_when_its_endpoints_do() {
    let (host, blue, green, client) = (Space::new(), Space::new(), Space::new(), Space::new());
    blue.serve("blue");
    green.serve("green");
    host.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(scenario(&blue, &green, &client));
    });
}

async fn scenario(blue: &Space, green: &Space, client: &Space) {
    let folder = tempfile::tempdir().expect("a folder");
    let instance = Instance::new(&format!("ondt-{}", std::process::id())).expect("a name");
    let settings = Settings {
        instance: instance.clone(),
        pod_ranges: vec!["10.244.7.0/24".parse().expect("a range")],
        service_ranges: vec!["10.96.0.0/16".parse().expect("a range")],
        mtu: 1500,
        record: folder.path().join("settings.json"),
    };
    let network = BridgeNetwork::open(&settings).expect("root");
    let gateway = network.gateways()[0];
    let mut addresses = Vec::new();
    for (uid, space) in [("blue", blue), ("green", green), ("client", client)] {
        addresses.push(network.attach(uid, space.0.as_fd()).await.expect("attached")[0]);
    }
    assert_eq!(client.ask(SocketAddr::new(addresses[1], 8080)).as_deref(), Ok("green"));

    let cluster = Arc::new(Cluster::default());
    let dns = json!({"clusterIP": "10.96.0.10", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]});
    cluster.put(&service("kube-system", "kube-dns", dns));
    let ports = json!([{"port": 80, "nodePort": 30080}]);
    let spec = json!({"clusterIP": "10.96.0.9", "type": "NodePort", "ports": ports});
    cluster.put(&service("shop", "web", spec));
    let mut world = World::new();
    services::watch(&mut world);
    let world = Arc::new(world);
    let pods = node::agent::pods_of("n");
    let (tasks, stopper, clock) = (Tasks::new(), Stopper::new(), Clock::system());
    let stop = stopper.signal();
    let server = SocketAddr::new(gateway, 53);
    let frame = Frame {
        pods: settings.pod_ranges.clone(),
        service_ranges: settings.service_ranges.clone(),
        node_addresses: vec![gateway],
        ..Frame::default()
    };
    let (recorder, _writer) = Recorder::new("test", "n");
    let wanted = services::Settings {
        facts: Facts { node: "n".into(), dns: Some(server), addresses: vec![gateway], ..Facts::default() },
        frame,
        domain: "cluster.local".into(),
        dns: Some(net::dns::Config { addresses: vec![server], upstreams: Vec::new() }),
        kept_names: Some(folder.path().join("names.json")),
    };
    let api: Arc<dyn Api> = cluster.clone();
    let hands = Hands {
        api: api.clone(),
        world: world.clone(),
        pods: pods.clone(),
        rules: Rules::open(&instance).expect("root"),
        names: None,
        recorder,
        clock: clock.clone(),
        random: Random::system(),
        tasks: tasks.clone(),
    };
    let services = Services::new(wanted, hands);
    world.start(&api, &clock, &tasks, &stop);
    let (feeding, of_pods, watching) = (pods.clone(), stop.clone(), clock.clone());
    tasks.spawn("pods", async move { feeding.run(&*api, &watching, &of_pods).await });
    tasks.spawn("services", services.run(stop));

    let address: SocketAddr = "10.96.0.9:80".parse().expect("an address");
    let until = async |words: &[Result<&str, std::io::ErrorKind>], within: Duration| {
        let asked = async {
            loop {
                let asking = client.clone();
                let answer = tokio::task::spawn_blocking(move || asking.ask(address)).await.expect("asked");
                if words.contains(&answer.as_deref().map_err(|kind| *kind)) {
                    return;
                }
                clock.sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(clock.timeout(within, asked).await.is_some(), "no answer of {words:?} within {within:?}");
    };
    until(&[Err(std::io::ErrorKind::ConnectionRefused)], PATIENCE).await;
    cluster.put(&slice("2", &addresses[..1]));
    until(&[Ok("blue")], MOVED_WITHIN).await;
    cluster.put(&slice("3", &addresses[1..2]));
    until(&[Ok("green")], MOVED_WITHIN).await;
    let asking = client.clone();
    let named = tokio::task::spawn_blocking(move || is_named(&asking)).await.expect("asked");
    assert!(named, "the name of the Service is answered through the address of kube-dns");
    let mut node_port =
        tokio::net::TcpStream::connect("127.0.0.1:30080").await.expect("the loopback answers");
    let mut word = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut node_port, &mut word).await.expect("read");
    assert_eq!(word, "green");
    drop(node_port);

    // A host port of a pod: at the node's address, from a pod, the node and the loopback, until the pod ends.
    let on_host = |port: u16| [SocketAddr::new(gateway, port), SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
    let answers = async |space: Option<&Space>, address: SocketAddr, expect: Option<&str>| {
        let asked = async {
            loop {
                let space = space.cloned();
                let asked = tokio::task::spawn_blocking(move || match space {
                    Some(space) => space.ask(address),
                    None => say(address),
                });
                if asked.await.expect("asked").ok().as_deref() == expect {
                    return;
                }
                clock.sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(clock.timeout(PATIENCE, asked).await.is_some(), "no answer of {expect:?} at {address}");
    };
    cluster.put(&with_host_port("5", addresses[0], "Running"));
    let [at_node, at_loopback] = on_host(18080);
    answers(Some(client), at_node, Some("blue")).await;
    answers(None, at_node, Some("blue")).await;
    answers(None, at_loopback, Some("blue")).await;
    // The pod itself comes back to itself, and the other port is on the loopback alone.
    answers(Some(blue), at_node, Some("blue")).await;
    let [at_node_alone, at_loopback_alone] = on_host(18081);
    answers(None, at_loopback_alone, Some("blue")).await;
    answers(Some(client), at_node_alone, None).await;
    cluster.put(&with_host_port("6", addresses[0], "Succeeded"));
    answers(Some(client), at_node, None).await;
    answers(None, at_loopback, None).await;

    // Ports on which another program of the machine listens are that program's until it ends.
    let spare = Space(Arc::new(std::fs::File::open("/proc/thread-self/ns/net").expect("our own").into()));
    let other = [TcpListener::bind("0.0.0.0:30081"), TcpListener::bind("0.0.0.0:81")].map(Result::unwrap);
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "n", "resourceVersion": "7"}
    });
    cluster.put(&node);
    let ports = json!([{"port": 81, "nodePort": 30081}, {"port": 82}]);
    cluster.put(&service(
        "shop",
        "late",
        json!({"clusterIP": "10.96.0.11", "type": "LoadBalancer", "ports": ports}),
    ));
    let told = async |expect: &[(u16, &str)]| {
        let all = expect.iter().map(|(port, program)| format!("{gateway}:{port}/TCP={program}"));
        let all: Vec<String> = all.collect();
        let heard = async {
            while last_told(&cluster) != all {
                clock.sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(clock.timeout(PATIENCE, heard).await.is_some(), "{all:?} and not {:?}", last_told(&cluster));
    };
    let program = std::fs::read_to_string("/proc/self/comm").expect("our own name");
    let program = format!("the program {}", program.trim());
    told(&[(30081, &program), (81, &program), (82, "")]).await;
    // Whoever connects is taken by the program, which says nothing, and not by rules of ours.
    let asked = spare.run(|| TcpStream::connect_timeout(&SocketAddr::new(gateway, 30081), PATIENCE));
    assert!(other[0].accept().is_ok() && asked.is_ok());
    drop(other);
    told(&[(81, ""), (82, "")]).await;
    answers(Some(client), SocketAddr::new(gateway, 30081), None).await;

    stopper.stop();
    assert!(tasks.join(PATIENCE).await);
    network.release("green");
    assert_eq!(network.check(), Ok(()));
    node::network::wipe(&instance, &settings.record).expect("wiped");
    let told = network.check().expect_err("the bridge is gone");
    assert!(told.contains("is gone; restart ondol"), "{told}");
    drop(network);
    assert!(!settings.record.exists());
    let links = std::fs::read_to_string("/proc/thread-self/net/dev").expect("links");
    assert!(!links.contains("ondbr-"), "{links}");
}
