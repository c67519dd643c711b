//! Requests however they arrive, and bytes that are none.

use bytes::{Buf, BytesMut};
use proptest::prelude::*;

use super::*;

type Requests = Vec<Vec<Vec<u8>>>;

/// Feeds a stream in pieces of the given sizes (the last one repeats) and collects requests.
fn parse_in_pieces(
    stream: &[u8],
    limits: ParserLimits,
    pieces: &[usize],
) -> (Requests, Option<ProtocolError>) {
    let mut parser = RequestParser::new(limits);
    let mut buffer = BytesMut::new();
    let mut requests = Vec::new();
    let mut rest = stream;
    let mut sizes = pieces.iter().chain(std::iter::repeat(pieces.last().unwrap_or(&1)));
    loop {
        loop {
            let consumed = match parser.next(&buffer) {
                Err(error) => return (requests, Some(error)),
                Ok(None) => break,
                Ok(Some(request)) => {
                    if !request.is_empty() {
                        requests.push(request.from(0).map(<[u8]>::to_vec).collect());
                    }
                    request.frame().len()
                }
            };
            buffer.advance(consumed);
        }
        if rest.is_empty() {
            return (requests, None);
        }
        let size = sizes.next().map_or(1, |&size| size.clamp(1, rest.len()));
        buffer.extend_from_slice(&rest[..size]);
        rest = &rest[size..];
    }
}

fn parse(stream: &[u8]) -> (Requests, Option<ProtocolError>) {
    parse_in_pieces(stream, ParserLimits::default(), &[usize::MAX])
}

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn a_pipeline_of_both_kinds_is_taken_apart() {
    let stream =
        b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n\r\n*0\r\n*-1\r\n*1\r\n$0\r\n\r\nECHO  hi \n";
    let (requests, error) = parse(stream);
    assert_eq!(error, None);
    let expected = [words(&["GET", "k"]), words(&["PING"]), words(&[""]), words(&["ECHO", "hi"])];
    assert_eq!(requests, expected);
}

#[test]
fn bulk_strings_may_hold_any_bytes() {
    let (requests, _) = parse(b"*1\r\n$6\r\n\r\n*$\0\xff\r\n");
    assert_eq!(requests, [[b"\r\n*$\0\xff".to_vec()]]);
}

#[test]
fn inline_quotes_are_resolved() {
    let (requests, error) = parse(b"SET \"a b\\x41\\n\" 'it\\'s'\r\n");
    assert_eq!((requests, error), (vec![words(&["SET", "a bA\n", "it's"])], None));
    for open in [&b"GET \"k\r\n"[..], b"GET 'k\n", b"GET \"k\"x\n"] {
        assert_eq!(parse(open).1, Some(ProtocolError::UnbalancedQuotes));
    }
}

#[test]
fn what_is_not_resp_is_refused_at_the_first_wrong_byte() {
    let table: &[(&[u8], ProtocolError)] = &[
        (b"*x\r\n", ProtocolError::ArrayHeader),
        (b"*1\rx", ProtocolError::ArrayHeader),
        (b"*11111111111111111111111111111111111111", ProtocolError::ArrayHeader),
        (b"*1\r\n+OK\r\n", ProtocolError::NotBulk { found: b'+' }),
        (b"*1\r\n$-1\r\n", ProtocolError::BulkHeader),
        (b"*1\r\n$ 1\r\n", ProtocolError::BulkHeader),
        (b"*1\r\n$1\r\nabc", ProtocolError::BulkEnd),
    ];
    for (stream, error) in table {
        assert_eq!(parse(stream).1.as_ref(), Some(error), "{}", stream.escape_ascii());
    }
}

#[test]
fn a_request_past_a_limit_is_refused_when_it_is_announced() {
    let limits = ParserLimits {
        arguments_max: 3,
        bulk_bytes_max: 10,
        inline_bytes_max: 12,
        request_bytes_max: 40,
    };
    let refused = |stream: &[u8]| parse_in_pieces(stream, limits, &[usize::MAX]).1;
    assert_eq!(refused(b"*4\r\n"), Some(ProtocolError::TooManyArguments { count: 4, max: 3 }));
    assert_eq!(refused(b"*1\r\n$11\r\n"), Some(ProtocolError::TooLong { bytes: 11, max: 10 }));
    let long = b"*3\r\n$10\r\n0123456789\r\n$10\r\n0123456789\r\n$10\r\n";
    assert_eq!(refused(long), Some(ProtocolError::TooLong { bytes: 53, max: 40 }));
    assert_eq!(refused(b"0123456789abc"), Some(ProtocolError::InlineTooLong));
    assert_eq!(refused(b"0123456789abc\n"), Some(ProtocolError::InlineTooLong));
    assert_eq!(refused(b"0123456789ab\n"), None);
    let huge = b"*1\r\n$9223372036854775807\r\n";
    assert!(matches!(parse(huge).1, Some(ProtocolError::TooLong { .. })));
}

#[test]
fn a_long_argument_says_how_much_is_missing() {
    let mut parser = RequestParser::default();
    let buffer = b"*1\r\n$1000\r\nabc";
    assert!(parser.next(buffer).expect("well formed").is_none());
    assert_eq!(parser.missing(buffer.len()), 999);
}

proptest! {
    #[test]
    fn byte_by_byte_equals_at_once(
        requests in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..12), 1..5),
            0..5,
        ),
        pieces in proptest::collection::vec(1usize..9, 1..20),
    ) {
        let mut stream = Vec::new();
        for request in &requests {
            stream.extend_from_slice(format!("*{}\r\n", request.len()).as_bytes());
            for argument in request {
                stream.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
                stream.extend_from_slice(argument);
                stream.extend_from_slice(b"\r\n");
            }
        }
        for pieces in [&[usize::MAX][..], &[1], &pieces] {
            let (parsed, error) = parse_in_pieces(&stream, ParserLimits::default(), pieces);
            prop_assert_eq!(error, None);
            prop_assert_eq!(&parsed, &requests);
        }
    }

    #[test]
    fn random_bytes_never_panic_and_pieces_do_not_matter(
        stream in proptest::collection::vec(
            proptest::sample::select(b"*$\r\n0123-\"'\\ xaG\0\xff".to_vec()),
            0..80,
        ),
        pieces in proptest::collection::vec(1usize..9, 1..20),
    ) {
        let at_once = parse(&stream);
        prop_assert_eq!(&at_once, &parse_in_pieces(&stream, ParserLimits::default(), &[1]));
        prop_assert_eq!(&at_once, &parse_in_pieces(&stream, ParserLimits::default(), &pieces));
    }
}
