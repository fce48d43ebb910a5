//! Servers of other projects, which the scripts in `tests/servers` start.

use std::{
    env, fs,
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use tokio::time::Instant;

/// How long a server may take to answer. It takes milliseconds, on a machine with nothing else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a program is there. Where `TOWER_MESH_REQUIRE_SERVERS` is 1 (`tests/run` says so) it must
/// be; otherwise the test that wants it is to end, and passes.
pub(crate) fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut directories = env::split_paths(&path).chain(system);
    if directories.any(|directory| directory.join(program).is_file()) {
        return true;
    }
    let required = env::var("TOWER_MESH_REQUIRE_SERVERS").is_ok_and(|value| value == "1");
    assert!(!required, "`{program}` is not installed");
    println!("skipped: `{program}` is not installed");
    false
}

/// The name server of the zone `test.`. It is killed when it is dropped.
pub(crate) struct NameServer {
    directory: tempfile::TempDir,
    port: u16,
    serial: u32,
    process: Option<Child>,
}

// ===== impl NameServer =====

impl NameServer {
    /// Serves these records; `None` where no server is installed.
    pub(crate) fn start(records: &str) -> Option<Self> {
        if !is_there("knotd") {
            return None;
        }
        let mut server = Self {
            directory: tempfile::tempdir().unwrap(),
            port: 0,
            serial: 0,
            process: None,
        };
        server.write(records);
        // Another process may be quicker to take a port that was free.
        for _ in 0..10 {
            server.port = free_port();
            if server.launch() {
                return Some(server);
            }
        }
        panic!("the name server does not start: {}", server.log());
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Serves these records instead, from now on.
    pub(crate) fn update(&mut self, records: &str) {
        self.write(records);
        self.command("reload");
    }

    /// Answers everything with SERVFAIL, until the next update.
    pub(crate) fn fail(&self) {
        self.command("fail");
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Serves these records where it was.
    pub(crate) fn restart(&mut self, records: &str) {
        self.stop();
        self.write(records);
        assert!(self.launch(), "it does not come back: {}", self.log());
    }

    fn write(&mut self, records: &str) {
        self.serial += 1;
        let serial = self.serial;
        let zone = format!(
            "$ORIGIN test.\n$TTL 1\n\
             @ IN SOA ns.test. root.test. {serial} 60 60 60 1\n@ IN NS ns.test.\n\
             ns IN A 127.0.0.1\n{records}\n"
        );
        fs::write(self.path("test.zone"), zone).unwrap();
    }

    /// Whether it answers; `false` when it ended by itself.
    fn launch(&mut self) -> bool {
        let log = fs::File::create(self.path("log")).unwrap();
        let process = script()
            .arg("serve")
            .arg(self.directory.path())
            .arg(self.port.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let process = self.process.insert(process.unwrap());
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            if answers((Ipv4Addr::LOCALHOST, self.port).into()).is_ok() {
                return true;
            }
        }
        panic!("the name server does not answer: {}", self.log());
    }

    fn command(&self, command: &str) {
        let output = script().arg(command).arg(self.directory.path()).output();
        let output = output.unwrap();
        assert!(
            output.status.success(),
            "{command}: {output:?} {}",
            self.log()
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn script() -> Command {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers");
    Command::new(scripts.join("dns.sh"))
}

/// Whether a name server has something to say about `test.`.
fn answers(server: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    // One question: `test.`, SOA, IN.
    socket.send(b"\x12\x34\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04test\x00\x00\x06\x00\x01")?;
    let answered = socket.recv(&mut [0; 512]);
    if matches!(&answered, Err(error) if error.kind() == ErrorKind::ConnectionRefused) {
        #[allow(clippy::disallowed_methods, reason = "there is no runtime here")]
        thread::sleep(Duration::from_millis(10)); // nobody is at the port yet
    }
    answered.map(drop)
}

/// A port below those that the kernel gives to outgoing connections, free for UDP and TCP.
fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(15_000..32_000);
        let address = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
}
