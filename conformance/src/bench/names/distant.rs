//! A resolver as far away as that of a cluster: it asks the near one, and waits.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::READ;
use crate::rig::Rig;
use crate::rig::net::FAR_ADDRESS;

/// Where it listens.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 53);
/// How long an answer takes: between two nodes of a cluster, with a cache at the other end that is not busy.
pub(super) const DISTANCE: Duration = Duration::from_micros(500);
/// How often it looks whether it is to end.
const TICK: Duration = Duration::from_millis(100);
/// The longest message.
const ROOM: usize = 4096;

/// It runs as long as this lives.
pub(super) struct Distant(Arc<AtomicBool>);

impl Distant {
    pub(super) async fn start(rig: &Rig) -> Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ended);
        let started = rig.far().call(move || {
            let socket = UdpSocket::bind((ADDRESS, READ)).context("cannot be the distant resolver")?;
            let near = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            near.connect((FAR_ADDRESS, READ))?;
            socket.set_read_timeout(Some(TICK))?;
            near.set_read_timeout(Some(TICK))?;
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // Nobody asked, or no answer came: the one who asks says so.
                    let _ = answer(&socket, &near);
                }
            });
            Ok(())
        });
        started.await?;
        Ok(Self(ended))
    }
}

/// Answers one question.
fn answer(socket: &UdpSocket, near: &UdpSocket) -> std::io::Result<()> {
    let mut message = [0; ROOM];
    let (length, asker) = socket.recv_from(&mut message)?;
    let begun = Instant::now();
    near.send(&message[..length])?;
    let length = near.recv(&mut message)?;
    std::thread::sleep(DISTANCE.saturating_sub(begun.elapsed()));
    socket.send_to(&message[..length], asker)?;
    Ok(())
}

impl Drop for Distant {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
