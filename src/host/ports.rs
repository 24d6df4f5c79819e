//! Which TCP ports of this machine are listened on.
//!
//! The kernel is asked for its listeners alone (sock_diag(7)). /proc/net/tcp holds every connection as well: on a machine
//! that opens 2,000 a second, reading it took more than two seconds (measured, Linux 6.18), so it is only read where the
//! kernel does not answer the other question.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// State `LISTEN` in /proc/net/tcp (`TCP_LISTEN` of include/net/tcp_states.h).
const LISTEN: &str = "0A";
/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h: the type of the request and of its answers.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP` of linux/netlink.h.
const DUMP: u16 = 0x301;
/// `NLMSG_ERROR` and `NLMSG_DONE` of linux/netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const TCP: u8 = 6;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// The kernel writes at most so much at once into a dump (`NLMSG_GOODSIZE` and 32 KiB are its own limits). Bytes.
const ANSWER_BYTES: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(1);

/// Every TCP port on which anything listens, IPv4 and IPv6.
///
/// # Errors
/// When the kernel tells neither way.
pub fn listening() -> io::Result<BTreeSet<u16>> {
    asked().or_else(|_unanswered| tables())
}

fn asked() -> io::Result<BTreeSet<u16>> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let mut ports = BTreeSet::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        sendto(&socket, &request(family), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = vec![0; ANSWER_BYTES];
        loop {
            let (length, _) = recv(&socket, &mut *answer, RecvFlags::empty())?;
            if gather(answer.get(..length).unwrap_or_default(), &mut ports)? {
                break;
            }
        }
    }
    Ok(ports)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2` (linux/inet_diag.h): all listeners of this family.
fn request(family: AddressFamily) -> Vec<u8> {
    let listen = 1u32 << u32::from_str_radix(LISTEN, 16).unwrap_or_default();
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(u32::try_from(HEADER + REQUEST).unwrap_or_default().to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    // Sequence number and sender: one question at a time, and the kernel knows who asks.
    bytes.extend([0; 8]);
    bytes.extend([u8::try_from(family.as_raw()).unwrap_or_default(), TCP, 0, 0]);
    bytes.extend(listen.to_ne_bytes());
    bytes.resize(HEADER + REQUEST, 0);
    bytes
}

/// Enters the ports of one answer; was it the last?
fn gather(mut answer: &[u8], ports: &mut BTreeSet<u16>) -> io::Result<bool> {
    let broken = || io::Error::other("the kernel's answer about listening sockets is cut off");
    while !answer.is_empty() {
        let length = answer.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).ok_or_else(broken)?;
        let length = usize::try_from(length).ok().filter(|length| *length >= HEADER).ok_or_else(broken)?;
        let message = answer.get(..length).ok_or_else(broken)?;
        let kind = message.get(4..).and_then(<[u8]>::first_chunk).map(|bytes| u16::from_ne_bytes(*bytes));
        match kind {
            Some(DONE) => return Ok(true),
            Some(ERROR) => {
                let code = message.get(HEADER..).and_then(<[u8]>::first_chunk).map(|bytes| i32::from_ne_bytes(*bytes));
                return Err(code.map_or_else(broken, |code| io::Error::from_raw_os_error(code.saturating_neg())));
            }
            // `struct inet_diag_msg`: four bytes, then the port, in network order.
            Some(_) => {
                let port = message.get(HEADER + 4..).and_then(<[u8]>::first_chunk).map(|bytes| u16::from_be_bytes(*bytes));
                ports.insert(port.ok_or_else(broken)?);
            }
            None => return Err(broken()),
        }
        // Messages begin at multiples of four bytes (`NLMSG_ALIGN`).
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Without IPv6 there is only the first table.
fn tables() -> io::Result<BTreeSet<u16>> {
    let mut ports = parse(&std::fs::read_to_string("/proc/net/tcp")?);
    match std::fs::read_to_string("/proc/net/tcp6") {
        Ok(table) => ports.extend(parse(&table)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(ports)
}

/// Lines of `sl local_address rem_address st …` (Documentation/networking/proc_net_tcp.rst).
fn parse(table: &str) -> BTreeSet<u16> {
    let port = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let (_address, port) = local.rsplit_once(':')?;
        (state == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
    };
    table.lines().skip(1).filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_ipv6_is_seen() {
        let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else { return };
        assert!(asked().unwrap().contains(&listener.local_addr().unwrap().port()));
    }

    #[test]
    fn a_kernel_that_answers_nonsense_is_an_error() {
        for answer in [&[1u8][..], &[15, 0, 0, 0], &[200, 0, 0, 0, 20, 0], &[16, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(gather(answer, &mut BTreeSet::new()).is_err(), "{answer:?}");
        }
    }

    #[test]
    fn a_listener_is_seen_and_a_connection_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let ways = [asked, tables];
        for way in ways {
            assert!(way().unwrap().contains(&port));
        }
        drop(listener);
        for way in ways {
            assert!(!way().unwrap().contains(&port));
        }
        drop(client);
    }
}
