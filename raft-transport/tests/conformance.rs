//! Both networks of the crate pass the suite that any other must pass.

use std::sync::Arc;

use raft_mux::{MuxAcceptor, MuxConfig};
use raft_transport::{MemoryHub, Network, TcpNetwork, conformance};

#[tokio::test]
async fn memory_network_conforms() {
    conformance::run(async |registries| {
        let hub = MemoryHub::new();
        let ids = registries.each_ref().map(|registry| registry.identity().node);
        registries[0].set_peer(ids[1], "");
        registries[1].set_peer(ids[0], "");
        ids.map(|id| Arc::new(hub.node(id, &conformance::LANES)) as Arc<dyn Network>)
    })
    .await;
}

#[tokio::test]
async fn tcp_network_conforms() {
    conformance::run(async |[a, b]| {
        let bind = async || {
            let any_port = "127.0.0.1:0".parse().unwrap();
            MuxAcceptor::bind(any_port, MuxConfig::default()).await.unwrap()
        };
        let (at_a, at_b) = (bind().await, bind().await);
        a.set_peer(b.identity().node, at_b.local_addr().to_string());
        b.set_peer(a.identity().node, at_a.local_addr().to_string());
        [(at_a, a), (at_b, b)].map(|(acceptor, registry)| {
            let network = TcpNetwork::new(acceptor, &conformance::LANES, registry).unwrap();
            Arc::new(network) as Arc<dyn Network>
        })
    })
    .await;
}
