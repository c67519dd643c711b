//! Handshakes as bytes, and what is refused.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::testing::hex;

fn hello() -> Hello {
    Hello {
        cluster: "prod".to_owned(),
        node: NodeId::new(1),
        to: NodeId::new(2),
        store: 0x0102_0304_0506_0708_090A_0B0C_0D0E_0F10,
        incarnation: Incarnation::new(3),
        life: 0xF0,
        past: vec![0x0102_0304, 5],
        lane: Lane::Data { shard: 4 },
        generation: 5,
        shards: 6,
        features: 7,
        frame_bytes_max: 8,
        protocol: Protocol::raft(),
    }
}

fn welcome() -> Welcome {
    Welcome {
        node: NodeId::new(2),
        store: 1,
        incarnation: Incarnation::new(3),
        life: 0xF0,
        past: Vec::new(),
        shards: 6,
        features: 7,
        window_bytes: 4 << 20,
        frame_bytes_max: 8,
    }
}

fn golden() -> Vec<(Handshake, &'static str)> {
    let (node, theirs) = (NodeId::new(9), 2);
    let mut list = vec![
        (
            Handshake::Hello(hello()),
            concat!(
                "524c414e010001004000000006006eaf0470726f640102100f0e0d0c0b0a0908",
                "0706050403020103f000000000000000000000000000000008040302010500000084feffff0f05060708",
                "047261667401"
            ),
        ),
        (
            Handshake::Welcome(welcome()),
            "524c414e010002002a0000006a99f160020100000000000000000000000000000003f00000000000000000000000000000000006078080800208",
        ),
    ];
    let refusals = [
        (
            HelloRefusal::WrongVersion { ours: 1, theirs: 2 },
            "524c414e010003000300000057b51369000102",
        ),
        (
            HelloRefusal::WrongCluster { ours: "a".to_owned(), theirs: "b".to_owned() },
            "524c414e0100030005000000763125980101610162",
        ),
        (
            HelloRefusal::WrongNode { ours: node, theirs: NodeId::new(8) },
            "524c414e0100030003000000da0c8ad0020908",
        ),
        (HelloRefusal::UnknownNode { node }, "524c414e0100030002000000e600f6fd0309"),
        (
            HelloRefusal::WrongLane { ours: Lane::Control, theirs: Lane::Bulk },
            "524c414e010003000b000000141e6d0d04f0ffffff0ffeffffff0f",
        ),
        (
            HelloRefusal::ReplayedGeneration { newest: 300, theirs: 2 },
            "524c414e01000300040000009294530305ac0202",
        ),
        (
            HelloRefusal::StoreChanged { theirs },
            "524c414e01000300110000000f5a74440602000000000000000000000000000000",
        ),
        (
            HelloRefusal::OldIncarnation {
                newest: Incarnation::new(4),
                theirs: Incarnation::new(3),
            },
            "524c414e010003000300000096aba0b2070403",
        ),
        (HelloRefusal::ShuttingDown, "524c414e0100030001000000db10622c08"),
        (
            HelloRefusal::SameLife { incarnation: Incarnation::new(3) },
            "524c414e010003000200000088db452c0903",
        ),
        (
            HelloRefusal::FarIncarnation {
                newest: Incarnation::new(4),
                theirs: Incarnation::new(300),
            },
            "524c414e01000300040000005d76b6ce0a04ac02",
        ),
        (
            HelloRefusal::WrongProtocol {
                ours: Protocol::raft(),
                theirs: Protocol { name: "paxos".to_owned(), version: 300 },
            },
            "524c414e010003000f00000074b4ea870b047261667401057061786f73ac02",
        ),
        (
            HelloRefusal::OtherCertificate { certified: NodeId::new(3), theirs: node },
            "524c414e01000300030000005db450710c0309",
        ),
    ];
    list.extend(refusals.map(|(refusal, golden)| (Handshake::Refusal(refusal), golden)));
    list
}

#[test]
fn every_message_has_its_golden_bytes_and_comes_back() {
    for (message, golden) in golden() {
        let bytes = encode_handshake(&message);
        assert_eq!(hex(&bytes), golden, "{message:?}");
        let mut buffer = BytesMut::new();
        for (position, byte) in bytes.iter().enumerate() {
            buffer.extend_from_slice(&[*byte]);
            let decoded = decode_handshake(&mut buffer).unwrap();
            let complete = position + 1 == bytes.len();
            assert_eq!(decoded, complete.then(|| message.clone()));
        }
        assert!(buffer.is_empty());
    }
}

#[test]
fn what_follows_a_handshake_stays_in_the_buffer() {
    let mut buffer = BytesMut::from(&encode_handshake(&Handshake::Welcome(welcome()))[..]);
    buffer.extend_from_slice(b"frame");
    decode_handshake(&mut buffer).unwrap().unwrap();
    assert_eq!(&buffer[..], b"frame");
}

#[test]
fn refusal_of_another_version_is_understood() {
    let refusal = Handshake::Refusal(HelloRefusal::WrongVersion { ours: 2, theirs: 1 });
    let mut bytes = encode_handshake(&refusal);
    bytes[4] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let decoded = decode_handshake(&mut BytesMut::from(&bytes[..]));
    assert_eq!(decoded, Ok(Some(refusal)));
}

#[test]
fn strangers_are_recognised_at_their_first_wrong_byte() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"RLAX", b"\0"] {
        let decoded = decode_handshake(&mut BytesMut::from(bytes));
        assert_eq!(decoded, Err(HandshakeError::Magic));
    }
}

#[test]
fn long_cluster_names_are_cut_in_refusals_and_never_decoded() {
    let long = "ä".repeat(1000);
    let refusal = HelloRefusal::WrongCluster { ours: long.clone(), theirs: long };
    let bytes = encode_handshake(&Handshake::Refusal(refusal));
    assert!(bytes.len() <= HEAD_LEN + HANDSHAKE_BODY_MAX as usize);
    decode_handshake(&mut BytesMut::from(&bytes[..])).unwrap().unwrap();
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        valid in 0..11_usize,
        position in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        tail in vec(any::<u8>(), 0..100),
    ) {
        let mut bytes = encode_handshake(&golden()[valid].0);
        let position = position.index(bytes.len());
        let changed = bytes[position] != byte;
        bytes[position] = byte;
        let decoded = decode_handshake(&mut BytesMut::from(&bytes[..]));
        prop_assert!(!changed || !matches!(decoded, Ok(Some(_))), "{decoded:?}");
        let mut stranger = BytesMut::from(&bytes[..position]);
        stranger.extend_from_slice(&tail);
        let _ = decode_handshake(&mut stranger);
    }
}
