//! A TCP proxy on loopback that breaks what passes through it.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

/// What a [`FaultProxy`] does to connections. A change applies to the open ones as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: bytes pass.
    Pass,
    /// Nobody listens: connecting is refused. Open connections are reset, as when a process dies.
    Refuse,
    /// Connections are accepted, and nothing comes through in either direction. What was held back
    /// passes when the fault ends.
    Hang,
    /// Connections are reset: new ones as soon as they are accepted.
    Reset,
    /// Each byte comes this much later. The throughput stays what it is.
    Delay {
        /// From the client to the server.
        up: Duration,
        /// From the server to the client.
        down: Duration,
    },
    /// Each connection is closed (with FIN) after this many more bytes from the server. A connection
    /// that opens later counts from its start.
    CutAfter(u64),
}

/// A TCP proxy from a port of 127.0.0.1 to a server, with a [`Fault`] that can be changed while
/// it runs. It needs a runtime whose clock is not paused, and ends when it is dropped.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_layers::test_util::{Answer, Fault, FaultProxy, Scripted, clients, servers::Server};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (service, probe) = Scripted::always(Answer::ok());
/// let server = Server::hyper(service);
/// let proxy = FaultProxy::start(server.addr()).await.unwrap();
/// let client = clients::h1();
/// let get = || clients::send_to(proxy.addr(), http::Request::new(String::new()));
///
/// assert_eq!(client.request(get()).await.unwrap().status(), 200);
/// proxy.set(Fault::Refuse).await;
/// assert!(client.request(get()).await.is_err());
/// assert_eq!(probe.calls(), 1);
/// # });
/// ```
pub struct FaultProxy {
    addr: SocketAddr,
    orders: watch::Sender<Order>,
    obeyed: watch::Receiver<u64>,
    counts: Arc<Counts>,
    task: AbortHandle,
}

#[derive(Debug, Clone, Copy)]
struct Order {
    number: u64,
    fault: Fault,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    open: AtomicUsize,
}

/// Counts a connection as open.
struct Open(Arc<Counts>);

/// Why both directions of a connection end: it was cut, or the socket broke.
struct Broken;

/// How much is in flight in one direction at most, in chunks of up to [`CHUNK`] bytes.
const CHUNKS: usize = 256;
const CHUNK: usize = 16 * 1024;

// ===== impl FaultProxy =====

impl FaultProxy {
    /// Starts a proxy to `server` that lets everything pass.
    ///
    /// # Errors
    ///
    /// Fails if no port can be listened at.
    pub async fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = socket_at((Ipv4Addr::LOCALHOST, 0).into())?.listen(1024)?;
        let addr = listener.local_addr()?;
        let (orders, mode) = watch::channel(Order {
            number: 0,
            fault: Fault::Pass,
        });
        let (obey, obeyed) = watch::channel(0);
        let counts = Arc::new(Counts::default());
        let accepting = accept(listener, server, mode, obey, counts.clone());
        let task = tokio::spawn(async move {
            accepting
                .await
                .expect("the port of the proxy can be listened at again");
        });
        Ok(Self {
            addr,
            orders,
            obeyed,
            counts,
            task: task.abort_handle(),
        })
    }

    /// Where clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes the fault, and waits until it is in force: connections that are to be reset were
    /// reset, and a port that is to be closed is.
    pub async fn set(&self, fault: Fault) {
        let mut number = 0;
        self.orders.send_modify(|order| {
            number = order.number + 1;
            *order = Order { number, fault };
        });
        let mut obeyed = self.obeyed.clone();
        // The error is a proxy that is gone with its runtime.
        _ = obeyed.wait_for(|obeyed| *obeyed >= number).await;
    }

    /// The fault in force.
    pub fn fault(&self) -> Fault {
        self.orders.borrow().fault
    }

    /// Connections accepted so far, those reset at once included.
    pub fn connections(&self) -> u64 {
        self.counts.accepted.load(SeqCst)
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.counts.open.load(SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy")
            .field("addr", &self.addr)
            .field("fault", &self.fault())
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

// ===== accepting =====

/// A socket that owns `addr` without listening: connecting to it is refused.
fn socket_at(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

async fn accept(
    mut listener: TcpListener,
    server: SocketAddr,
    mut mode: watch::Receiver<Order>,
    obey: watch::Sender<u64>,
    counts: Arc<Counts>,
) -> io::Result<()> {
    let addr = listener.local_addr()?;
    let mut relays = JoinSet::new();
    loop {
        let order = *mode.borrow_and_update();
        if severs(order.fault) {
            // They see the same order, and end at once.
            while relays.join_next().await.is_some() {}
        }
        if order.fault == Fault::Refuse {
            drop(listener);
            // Held without listening, so that nobody else gets the port in the meantime.
            let socket = socket_at(addr)?;
            obey.send_replace(order.number);
            let healed = mode
                .wait_for(|order| order.fault != Fault::Refuse)
                .await
                .is_ok();
            listener = socket.listen(1024)?;
            if !healed {
                return Ok(());
            }
            continue;
        }
        obey.send_replace(order.number);
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                counts.accepted.fetch_add(1, SeqCst);
                let open = Open::new(&counts);
                relays.spawn(relay(client, server, mode.clone(), open));
            }
            changed = mode.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            // Those that are over need not be kept.
            Some(_) = relays.join_next() => {}
        }
    }
}

fn severs(fault: Fault) -> bool {
    matches!(fault, Fault::Refuse | Fault::Reset)
}

// ===== one connection =====

async fn relay(client: TcpStream, server: SocketAddr, mode: watch::Receiver<Order>, _open: Open) {
    let mut severed = mode.clone();
    let mut hanging = mode.clone();
    let server = async {
        _ = hanging.wait_for(|order| order.fault != Fault::Hang).await;
        TcpStream::connect(server).await
    };
    let server = tokio::select! {
        biased;
        _ = severed.wait_for(|order| severs(order.fault)) => None,
        server = server => server.ok(),
    };
    let Some(server) = server else {
        _ = client.set_zero_linger();
        return;
    };
    _ = client.set_nodelay(true);
    _ = server.set_nodelay(true);
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let reset = {
        let up = direction(&mut from_client, &mut to_server, mode.clone(), Way::Up);
        let down = direction(&mut from_server, &mut to_client, mode, Way::Down);
        tokio::select! {
            biased;
            _ = severed.wait_for(|order| severs(order.fault)) => true,
            _ = async { tokio::try_join!(up, down) } => false,
        }
    };
    if reset {
        for half in [to_client, to_server] {
            _ = half.as_ref().set_zero_linger();
            // Dropped, it would say goodbye with a FIN before the reset.
            half.forget();
        }
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// Reading and writing are apart, so that a delay costs latency and not throughput.
async fn direction(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mode: watch::Receiver<Order>,
    way: Way,
) -> Result<(), Broken> {
    let (chunks, delayed) = mpsc::channel(CHUNKS);
    let read = async move {
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            match from.read_buf(&mut chunk).await {
                Ok(0) => return Ok(()),
                Ok(_) => chunks
                    .send((Instant::now(), chunk.freeze()))
                    .await
                    .map_err(|_| Broken)?,
                Err(_) => return Err(Broken),
            }
        }
    };
    let writer = Writer {
        to,
        mode,
        way,
        cut: None,
    };
    tokio::try_join!(read, writer.run(delayed)).map(|_| ())
}

struct Writer<'a> {
    to: &'a mut OwnedWriteHalf,
    mode: watch::Receiver<Order>,
    way: Way,
    /// The order to cut that is being carried out, and how many bytes may still pass.
    cut: Option<(u64, u64)>,
}

// ===== impl Writer =====

impl Writer<'_> {
    async fn run(mut self, mut chunks: mpsc::Receiver<(Instant, Bytes)>) -> Result<(), Broken> {
        while let Some((read_at, chunk)) = chunks.recv().await {
            let order = self.due(read_at).await?;
            match (order.fault, self.way) {
                (Fault::CutAfter(limit), Way::Down) => self.cut(order.number, limit, chunk).await?,
                _ => self.to.write_all(&chunk).await.map_err(|_| Broken)?,
            }
        }
        // The end passes as the bytes do.
        self.due(Instant::now()).await?;
        self.to.shutdown().await.map_err(|_| Broken)
    }

    /// Waits until what was read at `read_at` may pass, and says under which order.
    async fn due(&mut self, read_at: Instant) -> Result<Order, Broken> {
        loop {
            let order = *self.mode.borrow_and_update();
            let due = match (order.fault, self.way) {
                (Fault::Pass | Fault::CutAfter(_), _) => return Ok(order),
                (Fault::Delay { up, .. }, Way::Up) => Some(read_at + up),
                (Fault::Delay { down, .. }, Way::Down) => Some(read_at + down),
                (Fault::Hang | Fault::Refuse | Fault::Reset, _) => None,
            };
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => return Ok(order),
                changed = self.mode.changed() => changed.map_err(|_| Broken)?,
            }
        }
    }

    async fn cut(&mut self, order: u64, limit: u64, mut chunk: Bytes) -> Result<(), Broken> {
        let left = match self.cut {
            Some((number, left)) if number == order => left,
            _ => limit,
        };
        let passing = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        chunk.truncate(passing);
        self.to.write_all(&chunk).await.map_err(|_| Broken)?;
        let left = left - passing as u64;
        self.cut = Some((order, left));
        if left == 0 {
            // Before the socket is closed, which could discard what is not read yet.
            _ = self.to.shutdown().await;
            return Err(Broken);
        }
        Ok(())
    }
}

// ===== impl Open =====

impl Open {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.open.fetch_add(1, SeqCst);
        Self(counts.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}
