//! What the first bytes of a program tell: whether a kernel runs it on this architecture. Pure.

/// How many of its bytes are needed.
pub(crate) const HEADER: usize = 20;

/// Numbers of machines (`e_machine`) by the names that Kubernetes gives them.
const MACHINES: [(u16, &str); 7] = [
    (3, "386"),
    (21, "ppc64le"),
    (22, "s390x"),
    (40, "arm"),
    (62, "amd64"),
    (183, "arm64"),
    (243, "riscv64"),
];

/// The architecture of a program that begins so; `None`: it is none, but a page of a server, an archive or a script.
pub(crate) fn architecture(head: &[u8]) -> Option<String> {
    let head = head.first_chunk::<HEADER>().filter(|head| head.starts_with(b"\x7fELF"))?;
    let machine = [head[18], head[19]];
    // The byte before says which way round numbers stand.
    let machine = if head[5] == 2 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
    let known = MACHINES.iter().find(|(number, _)| *number == machine);
    Some(known.map_or_else(|| format!("machine {machine}"), |(_, name)| (*name).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(order: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut head = vec![0; HEADER];
        head[..4].copy_from_slice(b"\x7fELF");
        head[5] = order;
        head[18..].copy_from_slice(&machine);
        head
    }

    #[test]
    fn the_architecture_stands_in_the_header() {
        assert_eq!(architecture(&head(1, [62, 0])).as_deref(), Some("amd64"));
        assert_eq!(architecture(&head(1, [183, 0])).as_deref(), Some("arm64"));
        assert_eq!(architecture(&head(2, [0, 22])).as_deref(), Some("s390x"));
        assert_eq!(architecture(&head(1, [1, 1])).as_deref(), Some("machine 257"));
        for none in [&b"<html><body>404 not found"[..], b"#!/bin/sh\necho hello hello", b"\x7fELF", b""] {
            assert_eq!(architecture(none), None);
        }
    }
}
