//! HTTP that came to the wrong port: known by its first lines, so that no line of a body runs.
//!
//! A browser or a server can be made to send a request of somebody else's making to any port it
//! reaches. Its lines look like inline commands: the head is a few unknown ones, the body may
//! hold real ones. Redis closes such connections at `POST` and `Host:`, and so do we.

use super::commands;
use super::parser::Request;

/// Whether this is a line of HTTP, and no command.
pub(super) fn is_http(request: &Request<'_>) -> bool {
    let name = request.argument(0).unwrap_or_default();
    if name.eq_ignore_ascii_case(b"post") || begins(name, b"host:") {
        return true;
    }
    // `GET / HTTP/1.1`: no command of ours takes these words, but `SET` would.
    let is_inline = request.frame().first() != Some(&b'*');
    is_inline
        && request.len() == 3
        && request.argument(2).is_some_and(|version| begins(version, b"http/"))
        && !commands::find(name).is_some_and(|spec| spec.accepts(3))
}

fn begins(word: &[u8], with: &[u8]) -> bool {
    word.get(..with.len()).is_some_and(|head| head.eq_ignore_ascii_case(with))
}

#[cfg(test)]
mod tests {
    use super::super::parser::RequestParser;
    use super::*;

    #[test]
    fn requests_and_their_heads_are_known_and_commands_are_not_taken_for_them() {
        let table: &[(&str, bool)] = &[
            ("POST / HTTP/1.1", true),
            ("post /", true),
            ("Host: 127.0.0.1:6371", true),
            ("host:x", true),
            ("*1\r\n$4\r\nPOST", true),
            ("*1\r\n$5\r\nHost:", true),
            ("GET / HTTP/1.1", true),
            ("PUT /k HTTP/1.0", true),
            ("DELETE /k http/2", true),
            ("OPTIONS * HTTP/1.1", true),
            ("PRI * HTTP/2.0", true),
            ("SET / HTTP/1.1", false),
            ("EXISTS / HTTP/1.1", false),
            ("MGET / HTTP/1.1", false),
            ("GET /", false),
            ("GET / HTTP/1.1 x", false),
            ("*3\r\n$3\r\nGET\r\n$1\r\n/\r\n$8\r\nHTTP/1.1", false),
            ("hos", false),
            ("User-Agent: x", false),
        ];
        for (line, expected) in table {
            let line = format!("{line}\r\n");
            let mut parser = RequestParser::default();
            let request = parser.next(line.as_bytes()).expect("inline").expect("complete");
            assert_eq!(is_http(&request), *expected, "{line}");
        }
    }
}
