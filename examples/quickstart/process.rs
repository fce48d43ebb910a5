//! An instance from outside: a child process that is started, steered and killed.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
};
use tower_mesh::discovery::instance::Instance;

use crate::{
    Result,
    instance::{ARGUMENT, Behaviour},
    site::Site,
};

/// A running instance. It ends with this value.
#[derive(Debug)]
pub struct Process {
    /// How the registry knows it.
    pub instance: Instance,
    child: Child,
    stdin: ChildStdin,
}

impl Process {
    /// Starts an instance and waits until it listens.
    pub async fn start(
        site: &Site,
        service: &str,
        name: &str,
        scheme: &str,
        version: &str,
    ) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args([ARGUMENT, scheme, name, version])
            .arg(site.directory())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        // Ctrl-C is for us: an instance that it ended first would fail calls.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = child.stdout.take().expect("it is piped");
        let first_line = BufReader::new(stdout).lines().next_line().await?;
        let url = first_line.ok_or("the instance did not start")?.parse()?;
        Ok(Self {
            instance: Instance::new(service, name)
                .with_version(version)
                .with_endpoint(url),
            child,
            stdin,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.instance.id
    }

    /// Tells it what to do with its calls from now on.
    pub async fn tell(&mut self, behaviour: Behaviour) -> Result<()> {
        let line = format!("{behaviour}\n");
        Ok(self.stdin.write_all(line.as_bytes()).await?)
    }

    /// SIGKILL: it does not get to say goodbye.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}
