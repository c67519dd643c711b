//! The admin port: which path answers what, and how much anybody may hold of it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use raft_core::{GroupId, LogIndex};
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::view::{DigestView, StatusView};
use super::{metrics, page};
use crate::complaint::Complaint;

/// Connections at a time. For one more, the one that has been idle for longest gives way; if all
/// are being answered, it waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// A request has its head sent within this; an idle connection is closed after it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A digest is computed behind the entries before it; later it is of no use to anybody.
const DIGEST_TIMEOUT: Duration = Duration::from_secs(5);
/// What is shown is no older than this. A look costs a shard some milliseconds at thousands of
/// groups: so it spends a few percent of its time at most, whoever asks.
const VIEW_AGE_MAX: Duration = Duration::from_millis(100);
/// After a failed accept, most likely for lack of file descriptors; doubled while it goes on.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(100);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(10);
/// Connections that wait in the kernel for their turn.
const BACKLOG: u32 = 1024;

/// A future that a trait object can return.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the port shows.
pub trait StatusSource: Send + Sync + 'static {
    /// The node as it is now. It may block for a moment: it is called where that is allowed.
    fn status(&self) -> StatusView;
    /// The applied index of a group and the digest of its state there; `None` if the group is
    /// not here or cannot tell.
    fn digest(&self, group: GroupId) -> BoxFuture<Option<(LogIndex, u64)>>;
}

/// A source that is asked no more often than its answer changes much.
///
/// A look at a node takes time of the threads that serve its groups, the more the more groups
/// there are; and anybody may ask, as often as they like.
struct Recent {
    source: Arc<dyn StatusSource>,
    newest: Mutex<Option<(Instant, StatusView)>>,
}

impl Recent {
    fn new(source: Arc<dyn StatusSource>) -> Self {
        Self { source, newest: Mutex::new(None) }
    }
}

impl StatusSource for Recent {
    /// Who asks while somebody looks waits for what is seen.
    fn status(&self) -> StatusView {
        let mut newest = self.newest.lock();
        if let Some((at, view)) = &*newest
            && at.elapsed() < VIEW_AGE_MAX
        {
            return view.clone();
        }
        let view = self.source.status();
        *newest = Some((Instant::now(), view.clone()));
        view
    }

    fn digest(&self, group: GroupId) -> BoxFuture<Option<(LogIndex, u64)>> {
        self.source.digest(group)
    }
}

/// A running admin port. Dropping it closes the listener; requests under way are cut.
#[derive(Debug)]
pub struct AdminServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl AdminServer {
    /// Listens and serves in the current runtime.
    ///
    /// # Errors
    /// If the address cannot be bound, or is not a loopback address
    /// ([`io::ErrorKind::PermissionDenied`]): the port has no password.
    pub async fn start(address: SocketAddr, source: Arc<dyn StatusSource>) -> io::Result<Self> {
        if !address.ip().to_canonical().is_loopback() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let source: Arc<dyn StatusSource> = Arc::new(Recent::new(source));
        Ok(Self { address, task: tokio::spawn(serve(listener, source)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of our predecessor that are still dying do not keep us out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn serve(listener: TcpListener, source: Arc<dyn StatusSource>) {
    let places = Arc::new(Places::default());
    let mut pause = ACCEPT_PAUSE_MIN;
    let mut complaint = Complaint::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(suppressed) = complaint.permit(Instant::now()) {
                    warn!(%error, suppressed, "the admin port cannot accept");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                continue;
            }
        };
        pause = ACCEPT_PAUSE_MIN;
        let source = Arc::clone(&source);
        let place = places.take().await;
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let busy = place.busy();
                let answering = answer(Arc::clone(&source), request);
                async move {
                    let answer = answering.await;
                    drop(busy);
                    answer
                }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                served = serving => if let Err(error) = served {
                    debug!(%error, "an admin connection ended early");
                },
                () = place.wanted.notified() => debug!("an idle admin connection gave way"),
            }
        });
    }
}

/// Who holds the port: at most [`CONNECTIONS_MAX`].
#[derive(Debug, Default)]
struct Places {
    held: Mutex<Held>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// By the number of the connection.
    places: BTreeMap<u64, Holder>,
    /// Numbers connections, and moments at which one fell idle.
    next: u64,
}

#[derive(Debug)]
struct Holder {
    /// When it fell idle; `None` while it is being answered. One that takes its answer slowly is
    /// idle: it is no more worth waiting for.
    idle_since: Option<u64>,
    wanted: Arc<Notify>,
}

/// A place, free again when it is dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    number: u64,
    /// Somebody else needs it.
    wanted: Arc<Notify>,
}

/// A request is being answered, until this is dropped.
struct Busy<'a>(&'a Place);

impl Places {
    async fn take(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_take() {
                return place;
            }
            self.left.notified().await;
        }
    }

    /// A place, if one is free or held by an idle connection, which then has to go.
    fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut held = self.held.lock();
        if held.places.len() >= CONNECTIONS_MAX {
            let idle = |(number, holder): (&u64, &Holder)| Some((holder.idle_since?, *number));
            let (_, number) = held.places.iter().filter_map(idle).min()?;
            held.places.remove(&number)?.wanted.notify_one();
        }
        held.next += 1;
        let (number, wanted) = (held.next, Arc::new(Notify::new()));
        let holder = Holder { idle_since: Some(number), wanted: Arc::clone(&wanted) };
        held.places.insert(number, holder);
        Some(Place { places: Arc::clone(self), number, wanted })
    }

    fn set_busy(&self, number: u64, busy: bool) {
        let mut held = self.held.lock();
        held.next += 1;
        let now = held.next;
        if let Some(holder) = held.places.get_mut(&number) {
            holder.idle_since = (!busy).then_some(now);
        }
    }
}

impl Place {
    fn busy(&self) -> Busy<'_> {
        self.places.set_busy(self.number, true);
        Busy(self)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.places.set_busy(self.0.number, false);
        // Whoever waits for a place may have this one.
        self.0.places.left.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held.lock().places.remove(&self.number);
        self.places.left.notify_one();
    }
}

/// Whether a request means this machine. A page of a stranger whose name is made to lead to a
/// loopback address (DNS rebinding) has its browser send that name.
fn is_for_us(request: &Request<Incoming>) -> bool {
    let Some(host) = request.headers().get(HOST) else {
        // No browser leaves it out.
        return true;
    };
    let Ok(authority) = host.to_str().unwrap_or_default().parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
}

async fn answer(
    source: Arc<dyn StatusSource>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "this port only reads\n"));
    }
    if !is_for_us(&request) {
        return Ok(text(
            StatusCode::MISDIRECTED_REQUEST,
            "this port answers requests to an address or to localhost, not to other names\n",
        ));
    }
    let response = match request.uri().path() {
        "/" => show(source, html).await,
        "/status.json" => show(source, json).await,
        "/metrics" => show(source, prometheus).await,
        "/healthz" => show(source, health).await,
        "/readyz" => show(source, readiness).await,
        path => match digest_path(path) {
            Some(group) => digest(source.as_ref(), group).await,
            None => text(
                StatusCode::NOT_FOUND,
                "here are: / /status.json /groups/<id>/digest /healthz /readyz /metrics\n",
            ),
        },
    };
    Ok(response)
}

/// Looks at the node and renders what was seen, away from the runtime's own threads: a node whose
/// shards are busy takes its time, and so does the JSON of many groups.
async fn show(
    source: Arc<dyn StatusSource>,
    render: fn(&StatusView) -> Response<Full<Bytes>>,
) -> Response<Full<Bytes>> {
    match tokio::task::spawn_blocking(move || render(&source.status())).await {
        Ok(response) => response,
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the node is stopping\n"),
    }
}

fn html(status: &StatusView) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, "text/html; charset=utf-8", page::render(status))
}

fn prometheus(status: &StatusView) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, "text/plain; version=0.0.4", metrics::render(status))
}

/// The group in `/groups/<id>/digest`.
fn digest_path(path: &str) -> Option<GroupId> {
    let id = path.strip_prefix("/groups/")?.strip_suffix("/digest")?;
    id.parse().ok().map(GroupId::new)
}

async fn digest(source: &dyn StatusSource, group: GroupId) -> Response<Full<Bytes>> {
    match tokio::time::timeout(DIGEST_TIMEOUT, source.digest(group)).await {
        Ok(Some((index, digest))) => json(&DigestView {
            group: group.get(),
            applied_index: index.get(),
            digest: format!("{digest:016x}"),
        }),
        Ok(None) => text(StatusCode::NOT_FOUND, "that group has no digest here\n"),
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the digest takes too long\n"),
    }
}

/// A node is healthy while all its threads answer, its log works and none of its groups is mute.
/// Elections are no illness.
fn health(status: &StatusView) -> Response<Full<Bytes>> {
    well("ok", &status.ailments)
}

/// A node is ready while it is healthy, knows a leader of each of its groups, and has applied what
/// its log held at the start.
fn readiness(status: &StatusView) -> Response<Full<Bytes>> {
    well("ready", &status.unready)
}

/// Says so, or what is the matter, a reason a line.
fn well(what: &str, reasons: &[String]) -> Response<Full<Bytes>> {
    let (status, lines) = match reasons {
        [] => (StatusCode::OK, what.to_owned()),
        reasons => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n")),
    };
    respond(status, "text/plain; charset=utf-8", lines + "\n")
}

fn json<T: Serialize>(value: &T) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => respond(StatusCode::OK, "application/json", body),
        Err(error) => {
            let body = format!("{error}\n");
            respond(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", body)
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::super::AdminClient;
    use super::*;

    #[derive(Default)]
    struct Sample {
        looks: AtomicU32,
    }

    impl StatusSource for Sample {
        fn status(&self) -> StatusView {
            self.looks.fetch_add(1, Relaxed);
            StatusView { node: 7, cluster: "<b>".to_owned(), ..StatusView::default() }
        }

        fn digest(&self, group: GroupId) -> BoxFuture<Option<(LogIndex, u64)>> {
            let known = group == GroupId::new(3);
            Box::pin(async move { known.then_some((LogIndex::new(5), u64::MAX)) })
        }
    }

    async fn sample() -> (AdminServer, AdminClient) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server =
            AdminServer::start(any, Arc::new(Sample::default())).await.expect("a free port");
        let client = AdminClient::new(server.address());
        (server, client)
    }

    #[tokio::test]
    async fn what_the_port_tells_is_what_the_client_reads() {
        let (_server, client) = sample().await;
        assert_eq!(client.status().await.expect("answered").node, 7);
        let digest = client.digest(GroupId::new(3)).await.expect("answered");
        assert_eq!((digest.applied_index, digest.digest.as_str()), (5, "ffffffffffffffff"));
        assert!(client.digest(GroupId::new(4)).await.is_err());
        assert_eq!(client.text("/healthz").await.expect("answered"), "ok\n");
        let page = client.text("/").await.expect("answered");
        assert!(page.contains("&lt;b&gt;") && !page.contains("<b>"), "{page}");
        assert!(client.text("/metrics").await.expect("answered").contains("raft_groups"));
        assert!(client.text("/groups/3").await.is_err());
    }

    /// The status line of the answer to one request.
    async fn ask(server: &AdminServer, request: &str) -> String {
        let mut stream = TcpStream::connect(server.address()).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn connections_that_say_nothing_give_way_to_a_request() {
        let (server, client) = sample().await;
        // Some said something once, and stay.
        let mut idle = Vec::new();
        for index in 0..CONNECTIONS_MAX + 16 {
            let mut stream = TcpStream::connect(server.address()).await.expect("it listens");
            if index % 2 == 0 {
                let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
                stream.write_all(request).await.expect("sent");
                let mut answer = [0; 16];
                stream.read_exact(&mut answer).await.expect("answered");
            }
            idle.push(stream);
        }
        // In much less than those would be given to say something.
        let answered = tokio::time::timeout(HEAD_TIMEOUT / 2, client.text("/healthz")).await;
        assert_eq!(answered.expect("at once").expect("answered"), "ok\n");
        // The oldest gave way, the newest is served all the same.
        let mut answer = [0; 16];
        let mut newest = idle.pop().expect("the newest");
        newest.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.expect("sent");
        newest.read_exact(&mut answer).await.expect("answered");
        assert!(answer.starts_with(b"HTTP/1.0 200"), "{}", answer.escape_ascii());
    }

    #[tokio::test]
    async fn requests_that_mean_another_host_are_refused() {
        let (server, _client) = sample().await;
        let ask = async |host: &str| {
            ask(&server, &format!("GET /healthz HTTP/1.1\r\nConnection: close\r\n{host}\r\n")).await
        };
        for ours in ["127.0.0.1", "127.0.0.1:9071", "[::1]:9071", "localhost:9071", "LOCALHOST"] {
            let line = ask(&format!("Host: {ours}\r\n")).await;
            assert!(line.contains(" 200 "), "{ours}: {line}");
        }
        for strange in ["evil.example", "evil.example:9071", "127.0.0.1.evil.example", "", "a b"] {
            let line = ask(&format!("Host: {strange}\r\n")).await;
            assert!(line.contains(" 421 "), "{strange}: {line}");
        }
    }

    #[tokio::test]
    async fn a_node_is_not_looked_at_for_everybody_who_asks() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let sample = Arc::new(Sample::default());
        let source: Arc<dyn StatusSource> = sample.clone();
        let server = AdminServer::start(any, source).await.expect("a free port");
        let client = AdminClient::new(server.address());
        let begun = Instant::now();
        for _ in 0..100 {
            client.text("/metrics").await.expect("answered");
        }
        let periods = begun.elapsed().as_millis() / VIEW_AGE_MAX.as_millis();
        let looks = sample.looks.load(Relaxed);
        assert!(u128::from(looks) <= periods + 1, "{looks} looks in {periods} periods");
    }

    #[tokio::test]
    async fn the_port_is_never_opened_beyond_this_machine() {
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let error =
            AdminServer::start(any, Arc::new(Sample::default())).await.expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
