//! Records for tests, and a name server that says what it is told to.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use hickory_resolver::proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, NS, SOA, SRV},
    },
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};

pub(super) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// 10.0.0.`last`
pub(super) fn address(last: u8) -> RData {
    RData::A(A(Ipv4Addr::new(10, 0, 0, last)))
}

pub(super) fn a(owner: &str, ttl: u32, last: u8) -> Record {
    Record::from_rdata(name(owner), ttl, address(last))
}

/// fd00::`last`
pub(super) fn aaaa(owner: &str, ttl: u32, last: u16) -> Record {
    let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
    Record::from_rdata(name(owner), ttl, RData::AAAA(AAAA(address)))
}

pub(super) fn cname(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

pub(super) fn ns(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 60, RData::NS(NS(name(target))))
}

/// Priority, weight and port.
pub(super) fn srv(owner: &str, ttl: u32, numbers: (u16, u16, u16), target: &str) -> Record {
    let (priority, weight, port) = numbers;
    let srv = SRV::new(priority, weight, port, name(target));
    Record::from_rdata(name(owner), ttl, RData::SRV(srv))
}

pub(super) fn answer(records: impl IntoIterator<Item = Record>) -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.add_answers(records);
    message
}

/// "There is nothing", for so many seconds; or an error.
pub(super) fn denial(code: ResponseCode, ttl: Option<u32>) -> Message {
    let mut message = answer([]);
    message.metadata.response_code = code;
    if let Some(ttl) = ttl {
        let soa = SOA::new(name("ns.test."), name("root.test."), 1, 60, 60, 60, ttl);
        message.add_authority(Record::from_rdata(name("test."), 3_600, RData::SOA(soa)));
    }
    message
}

pub(super) fn nothing() -> Message {
    denial(ResponseCode::NoError, Some(60))
}

/// What the server does with a question.
pub(super) enum Does {
    Say(Message),
    SayBytes(Vec<u8>),
    Nothing,
}

impl From<Message> for Does {
    fn from(message: Message) -> Self {
        Self::Say(message)
    }
}

/// Each question with whether it came over TCP.
type Asked = Arc<Mutex<Vec<(Name, RecordType, bool)>>>;
type Script = Arc<dyn Fn(&Name, RecordType) -> Does + Send + Sync>;

/// A name server on a free port of the loopback, over UDP and TCP.
pub(super) struct Double {
    pub(super) address: SocketAddr,
    asked: Asked,
    _tasks: JoinSet<()>,
}

// ===== impl Double =====

impl Double {
    pub(super) async fn new<D: Into<Does>>(
        script: impl Fn(&Name, RecordType) -> D + Send + Sync + 'static,
    ) -> Self {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let address = tcp.local_addr().unwrap();
        let asked = Asked::default();
        let script: Script = Arc::new(move |name, kind| script(name, kind).into());
        let mut tasks = JoinSet::new();
        tasks.spawn(over_udp(udp, script.clone(), asked.clone()));
        tasks.spawn(over_tcp(tcp, script, asked.clone()));
        Self {
            address,
            asked,
            _tasks: tasks,
        }
    }

    /// How often it was asked for records of a kind, over UDP and over TCP.
    pub(super) fn asked(&self, kind: RecordType) -> (usize, usize) {
        let asked = self.asked.lock();
        let count = |over_tcp| {
            let questions = asked.iter().filter(|(_, asked, _)| *asked == kind);
            questions.filter(|(_, _, tcp)| *tcp == over_tcp).count()
        };
        (count(false), count(true))
    }

    /// The names it was asked for, in order.
    pub(super) fn names(&self) -> Vec<String> {
        let asked = self.asked.lock();
        asked.iter().map(|(name, _, _)| name.to_string()).collect()
    }
}

async fn over_udp(socket: UdpSocket, script: Script, asked: Asked) {
    let mut buffer = [0; 4_096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        if let Some(response) = respond(&buffer[..length], &script, &asked, false) {
            socket.send_to(&response, peer).await.unwrap();
        }
    }
}

async fn over_tcp(listener: TcpListener, script: Script, asked: Asked) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (script, asked) = (script.clone(), asked.clone());
        connections.spawn(async move {
            let _ = serve(stream, script, asked).await;
        });
    }
}

async fn serve(mut stream: TcpStream, script: Script, asked: Asked) -> std::io::Result<()> {
    loop {
        let mut request = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut request).await?;
        if let Some(response) = respond(&request, &script, &asked, true) {
            stream.write_u16(response.len().try_into().unwrap()).await?;
            stream.write_all(&response).await?;
        }
    }
}

fn respond(request: &[u8], script: &Script, asked: &Asked, tcp: bool) -> Option<Vec<u8>> {
    let request = Message::from_vec(request).unwrap();
    let query: &Query = &request.queries[0];
    let (name, kind) = (query.name().clone(), query.query_type());
    asked.lock().push((name.clone(), kind, tcp));
    let mut message = match script(&name, kind) {
        Does::Nothing => return None,
        Does::SayBytes(bytes) => {
            let id = request.metadata.id.to_be_bytes();
            return Some([&id[..], &bytes].concat());
        }
        Does::Say(message) => message,
    };
    message.metadata.id = request.metadata.id;
    message.queries = vec![query.clone()];
    let bytes = message.to_vec().unwrap();
    if tcp || bytes.len() <= usize::from(request.max_payload()) {
        return Some(bytes);
    }
    message.answers.clear();
    message.additionals.clear();
    message.metadata.truncation = true;
    Some(message.to_vec().unwrap())
}
