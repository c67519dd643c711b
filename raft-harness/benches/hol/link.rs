//! Where the nodes live: all on loopback, or each in a network namespace behind a link.
//!
//! The namespaces are this process's own, by their names; threads move into them, and the threads
//! they start are born there. A bridge in a fourth namespace joins them. Each node's way out is
//! shaped to 1 Gbit/s with 4 ms of queue, as little as a switch has.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Three places on a network. Dropped, it is taken down.
pub(crate) struct Link {
    is_limited: bool,
}

fn space(name: impl std::fmt::Display) -> String {
    format!("hol{}-{name}", std::process::id())
}

impl Link {
    pub(crate) fn loopback() -> Self {
        Self { is_limited: false }
    }

    /// Makes namespaces and what joins them.
    pub(crate) fn limited() -> Result<Self> {
        let link = Self { is_limited: true };
        let hub = space("hub");
        run(&format!("ip netns add {hub}"))?;
        run(&format!("ip -n {hub} link add br0 type bridge"))?;
        run(&format!("ip -n {hub} link set br0 up"))?;
        for node in 1..=3 {
            let own = space(node);
            run(&format!("ip netns add {own}"))?;
            run(&format!("ip -n {hub} link add p{node} type veth peer name e0 netns {own}"))?;
            run(&format!("ip -n {hub} link set p{node} master br0 up"))?;
            run(&format!("ip -n {own} addr add 10.77.0.{node}/24 dev e0"))?;
            run(&format!("ip -n {own} link set e0 up"))?;
            run(&format!("ip -n {own} link set lo up"))?;
            run(&format!(
                "ip netns exec {own} tc qdisc add dev e0 root tbf rate 1gbit burst 128kb latency 4ms"
            ))?;
        }
        Ok(link)
    }

    /// The address of a node, from 1.
    pub(crate) fn address(&self, node: u8) -> IpAddr {
        match self.is_limited {
            true => IpAddr::V4(Ipv4Addr::new(10, 77, 0, node)),
            false => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// Does something on a thread that lives where a node lives.
    pub(crate) fn at<T: Send>(
        &self,
        node: u8,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        let path = self.is_limited.then(|| format!("/run/netns/{}", space(node)));
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                path.as_deref().map(enter).transpose()?;
                work()
            });
            match thread.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.is_limited {
            remove_all();
        }
    }
}

/// Takes the namespaces down, and with them what is in them.
pub(crate) fn remove_all() {
    for name in [space("hub"), space(1), space(2), space(3)] {
        if std::path::Path::new("/run/netns").join(&name).exists() {
            let _ = run(&format!("ip netns del {name}"));
        }
    }
}

/// Moves this thread into a namespace.
#[cfg(target_os = "linux")]
fn enter(path: &str) -> Result<()> {
    use std::os::fd::AsFd as _;

    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

    let space = std::fs::File::open(path).with_context(|| path.to_owned())?;
    move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| path.to_owned())
}

#[cfg(not(target_os = "linux"))]
fn enter(_: &str) -> Result<()> {
    bail!("there are no network namespaces here")
}

fn run(command: &str) -> Result<()> {
    let mut words = command.split_whitespace();
    let program = words.next().context("no command")?;
    let output = Command::new(program).args(words).output().with_context(|| command.to_owned())?;
    if !output.status.success() {
        bail!("`{command}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
