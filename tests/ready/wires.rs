//! TCP wires to a server: each can be reset while it waits, and the other end can become another server.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinSet,
};

/// Dropped when the wire is gone.
type Done = oneshot::Sender<()>;
type Reset = oneshot::Sender<Done>;

/// See the module.
pub(super) struct Wires {
    address: SocketAddr,
    to: watch::Sender<SocketAddr>,
    /// One for each, the newest last; also for those that have ended.
    resets: Arc<Mutex<Vec<Reset>>>,
    _tasks: JoinSet<()>,
}

impl Wires {
    pub(super) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (to, server) = watch::channel(server);
        let resets = Arc::<Mutex<Vec<Reset>>>::default();
        let mut tasks = JoinSet::new();
        let known = resets.clone();
        tasks.spawn(async move {
            let mut under_way = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let (reset, told) = oneshot::channel();
                known.lock().unwrap().push(reset);
                under_way.spawn(carry(near, *server.borrow(), told));
            }
        });
        Self {
            address,
            to,
            resets,
            _tasks: tasks,
        }
    }

    /// A configuration that goes over the wires.
    pub(super) fn instead_of(&self, server: SocketAddr, config: &str) -> String {
        config.replace(&server.to_string(), &self.address.to_string())
    }

    /// New wires lead there.
    pub(super) fn lead_to(&self, server: SocketAddr) {
        self.to.send_replace(server);
    }

    /// Resets the newest `count` wires that are not over; both ends know it when this returns.
    pub(super) async fn reset(&self, count: usize) {
        let mut under_way = Vec::new();
        while under_way.len() < count {
            let Some(reset) = self.resets.lock().unwrap().pop() else {
                break;
            };
            let (done, over) = oneshot::channel();
            if reset.send(done).is_ok() {
                under_way.push(over);
            }
        }
        for over in under_way {
            // It is dropped, not told.
            let _ = over.await;
        }
    }
}

async fn carry(mut near: TcpStream, to: SocketAddr, reset: oneshot::Receiver<Done>) {
    let Ok(mut far) = TcpStream::connect(to).await else {
        return near.set_zero_linger().unwrap();
    };
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => {}
        Ok(done) = reset => {
            near.set_zero_linger().unwrap();
            far.set_zero_linger().unwrap();
            drop((near, far));
            drop(done);
        }
    }
}
