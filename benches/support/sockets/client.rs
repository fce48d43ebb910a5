//! The sending process: as little work per request as possible, since it shares the cores with the server.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The environment variable that makes this binary the client.
pub(crate) const CHILD: &str = "TOWER_MESH_BENCH_CLIENT";

const REQUEST: &[u8] =
    b"GET /orders/42 HTTP/1.1\r\nhost: shop.example\r\naccept: application/json\r\n\r\n";

/// Obeys orders from standard input, one a line: port, connections, requests per connection.
pub(crate) fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut kept = HashMap::new();
    for order in io::stdin().lock().lines() {
        let order = order?;
        let numbers: Vec<u32> = order
            .split(' ')
            .filter_map(|number| number.parse().ok())
            .collect();
        let &[port, connections, requests] = numbers.as_slice() else {
            return Err(io::Error::other(format!("not an order: {order}")));
        };
        let idle = kept.remove(&port).unwrap_or_default();
        kept.insert(
            port,
            runtime.block_on(round(idle, port as u16, connections, requests))?,
        );
        println!("done");
        io::stdout().flush()?;
    }
    Ok(())
}

/// Sends on all connections at once and gives them back.
async fn round(
    mut idle: Vec<TcpStream>,
    port: u16,
    connections: u32,
    requests: u32,
) -> io::Result<Vec<TcpStream>> {
    while idle.len() < connections as usize {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.set_nodelay(true)?;
        idle.push(stream);
    }
    let mut sending: JoinSet<io::Result<TcpStream>> = JoinSet::new();
    for mut stream in idle {
        sending.spawn(async move {
            for _ in 0..requests {
                exchange(&mut stream).await?;
            }
            Ok(stream)
        });
    }
    sending.join_all().await.into_iter().collect()
}

async fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(REQUEST).await?;
    let mut buffer = [0; 1024];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Err(io::Error::other("closed, or more than fits")),
            read => filled += read,
        }
        if let Some(length) = response_length(&buffer[..filled])
            && filled >= length
        {
            let served = buffer.starts_with(b"HTTP/1.1 200 ");
            return served
                .then_some(())
                .ok_or_else(|| io::Error::other("a call was refused"));
        }
    }
}

/// Head and body, once the head is there.
fn response_length(received: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length: ";
    let head = received
        .windows(4)
        .position(|window| window == b"\r\n\r\n")?
        + 4;
    let at = received
        .windows(NAME.len())
        .position(|window| window == NAME)?
        + NAME.len();
    let digits = received[at..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    Some(head + digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
}
