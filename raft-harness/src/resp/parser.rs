//! Reads requests off a byte stream: arrays of bulk strings, and inline commands.
//!
//! The parser keeps positions only; the bytes stay in the caller's buffer and arguments are
//! slices of it, so nothing is copied. It remembers how far it got, so a request that arrives
//! byte by byte costs no more than one that arrives at once.
//!
//! Invariant: whatever the bytes, memory is bounded by [`ParserLimits`], and a length that a
//! client announces is never allocated before its bytes have come.

use core::ops::Range;

/// How much a client may send in one request.
#[derive(Clone, Copy, Debug)]
pub struct ParserLimits {
    /// Most arguments of one request, the command's name included. Default 65,536.
    pub arguments_max: usize,
    /// Longest argument in bytes. Default 64 MiB, as much as one value can hold.
    pub bulk_bytes_max: usize,
    /// Longest inline command in bytes. Default 64 KiB, as in Redis.
    pub inline_bytes_max: usize,
    /// Longest request in bytes, all arguments together. Default 65 MiB: the longest value, and
    /// room for its key.
    pub request_bytes_max: usize,
}

impl Default for ParserLimits {
    fn default() -> Self {
        Self {
            arguments_max: 65_536,
            bulk_bytes_max: 64 << 20,
            inline_bytes_max: 64 << 10,
            request_bytes_max: 65 << 20,
        }
    }
}

/// The client does not speak RESP, or asks for too much; its connection closes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// An array header is no number, or its line does not end.
    #[error("Protocol error: invalid multibulk length")]
    ArrayHeader,
    /// A bulk header is no number, is negative, or its line does not end.
    #[error("Protocol error: invalid bulk length")]
    BulkHeader,
    /// An array holds something else than bulk strings.
    #[error("Protocol error: expected '$', got '{}'", .found.escape_ascii())]
    NotBulk {
        /// The byte in the place of `$`.
        found: u8,
    },
    /// A bulk string is not followed by CR LF.
    #[error("Protocol error: bulk string without its end")]
    BulkEnd,
    /// More arguments than [`ParserLimits::arguments_max`].
    #[error("Protocol error: {count} arguments, at most {max} are allowed")]
    TooManyArguments {
        /// The number announced.
        count: u64,
        /// The limit.
        max: usize,
    },
    /// A bulk string longer than [`ParserLimits::bulk_bytes_max`], or a request longer than
    /// [`ParserLimits::request_bytes_max`].
    #[error("Protocol error: {bytes} bytes, at most {max} are allowed")]
    TooLong {
        /// The number announced.
        bytes: u64,
        /// The limit.
        max: usize,
    },
    /// An inline command longer than [`ParserLimits::inline_bytes_max`].
    #[error("Protocol error: too big inline request")]
    InlineTooLong,
    /// An inline command with an open quote.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
}

/// The state between two calls of [`RequestParser::next`].
#[derive(Debug, Default)]
pub struct RequestParser {
    limits: ParserLimits,
    state: State,
    /// Bytes of the buffer that are understood (or, inline, searched for the end of line).
    position: usize,
    arguments: Vec<Range<usize>>,
    /// Inline arguments with their quotes resolved.
    unquoted: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Start,
    /// At a bulk header, so many bulk strings before the end.
    Header {
        left: usize,
    },
    /// In a bulk string of this length.
    Payload {
        left: usize,
        length: usize,
    },
    Inline,
}

/// One request; its slices live in the caller's buffer.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    frame: &'a [u8],
    source: &'a [u8],
    arguments: &'a [Range<usize>],
}

/// A bulk or array header: a sign, 19 digits, CR LF, and some patience.
const HEADER_BYTES_MAX: usize = 32;

/// A vector longer than this is given back after the request that needed it.
const ARGUMENTS_KEPT: usize = 1024;
const UNQUOTED_KEPT: usize = 1024;

impl RequestParser {
    /// A parser at the start of a stream.
    pub fn new(limits: ParserLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes the request at the front of `buffer`, or `None` if it is not complete.
    ///
    /// After a request the caller drops the first `frame().len()` bytes of the buffer; otherwise
    /// it calls again with the same bytes and more behind them. A request without arguments (a
    /// blank line, an empty array) is to be ignored.
    ///
    /// # Errors
    /// After a [`ProtocolError`] the stream has no meaning any more.
    pub fn next<'a>(&'a mut self, buffer: &'a [u8]) -> Result<Option<Request<'a>>, ProtocolError> {
        loop {
            match self.state {
                State::Start => {
                    match buffer.first() {
                        None => return Ok(None),
                        Some(b'*') => {}
                        Some(_) => {
                            self.position = 0;
                            self.state = State::Inline;
                            continue;
                        }
                    }
                    let Some((count, end)) =
                        header(buffer, 1).map_err(|()| ProtocolError::ArrayHeader)?
                    else {
                        return Ok(None);
                    };
                    let left = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
                    if left > self.limits.arguments_max {
                        let max = self.limits.arguments_max;
                        return Err(ProtocolError::TooManyArguments { count: left as u64, max });
                    }
                    self.begin();
                    self.position = end;
                    self.state = State::Header { left };
                }
                State::Header { left: 0 } => {
                    let frame = &buffer[..self.position];
                    self.state = State::Start;
                    return Ok(Some(Request { frame, source: frame, arguments: &self.arguments }));
                }
                State::Header { left } => {
                    match buffer.get(self.position) {
                        None => return Ok(None),
                        Some(b'$') => {}
                        Some(&found) => return Err(ProtocolError::NotBulk { found }),
                    }
                    let Some((length, end)) = header(buffer, self.position + 1)
                        .map_err(|()| ProtocolError::BulkHeader)?
                    else {
                        return Ok(None);
                    };
                    let length = u64::try_from(length).map_err(|_| ProtocolError::BulkHeader)?;
                    let whole = length.saturating_add(end as u64);
                    for (bytes, max) in [
                        (length, self.limits.bulk_bytes_max),
                        (whole, self.limits.request_bytes_max),
                    ] {
                        if bytes > max as u64 {
                            return Err(ProtocolError::TooLong { bytes, max });
                        }
                    }
                    self.position = end;
                    self.state = State::Payload { left, length: length as usize };
                }
                State::Payload { left, length } => {
                    let end = self.position + length;
                    let Some(terminator) = buffer.get(end..end + 2) else {
                        return Ok(None);
                    };
                    if terminator != b"\r\n" {
                        return Err(ProtocolError::BulkEnd);
                    }
                    self.arguments.push(self.position..end);
                    self.position = end + 2;
                    self.state = State::Header { left: left - 1 };
                }
                State::Inline => return self.inline(buffer),
            }
        }
    }

    /// How many bytes the request under way needs beyond those seen, as far as it is known. It is
    /// what the client says, so make room as bytes come.
    pub fn missing(&self, buffered: usize) -> usize {
        match self.state {
            State::Payload { length, .. } => (self.position + length + 2).saturating_sub(buffered),
            State::Start | State::Header { .. } | State::Inline => 0,
        }
    }

    fn inline<'a>(&'a mut self, buffer: &'a [u8]) -> Result<Option<Request<'a>>, ProtocolError> {
        let Some(found) = buffer[self.position..].iter().position(|&byte| byte == b'\n') else {
            if buffer.len() > self.limits.inline_bytes_max {
                return Err(ProtocolError::InlineTooLong);
            }
            self.position = buffer.len();
            return Ok(None);
        };
        let end = self.position + found;
        if end > self.limits.inline_bytes_max {
            return Err(ProtocolError::InlineTooLong);
        }
        self.begin();
        self.state = State::Start;
        let line = &buffer[..end];
        split_words(line, &mut self.unquoted, &mut self.arguments)?;
        Ok(Some(Request {
            frame: &buffer[..=end],
            source: &self.unquoted,
            arguments: &self.arguments,
        }))
    }

    /// What the parser takes of memory, beside the buffer it reads from.
    pub fn allocated(&self) -> usize {
        self.arguments.capacity() * size_of::<Range<usize>>() + self.unquoted.capacity()
    }

    fn begin(&mut self) {
        self.position = 0;
        self.arguments.clear();
        self.arguments.shrink_to(ARGUMENTS_KEPT);
        self.unquoted.clear();
        self.unquoted.shrink_to(UNQUOTED_KEPT);
    }
}

impl<'a> Request<'a> {
    /// The bytes of the request as they came.
    pub fn frame(&self) -> &'a [u8] {
        self.frame
    }

    /// How many arguments it has, the command's name included.
    pub fn len(&self) -> usize {
        self.arguments.len()
    }

    /// Whether it is to be ignored.
    pub fn is_empty(&self) -> bool {
        self.arguments.is_empty()
    }

    /// The argument with this number; the command's name is number 0.
    pub fn argument(&self, index: usize) -> Option<&'a [u8]> {
        self.arguments.get(index).map(|range| &self.source[range.clone()])
    }

    /// The request that begins at argument `first`, for commands that hold another command.
    #[must_use]
    pub fn tail(&self, first: usize) -> Self {
        Self { arguments: self.arguments.get(first..).unwrap_or_default(), ..*self }
    }

    /// All arguments from number `first` on.
    pub fn from(&self, first: usize) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a> {
        let source = self.source;
        let arguments = self.arguments.get(first..).unwrap_or_default();
        arguments.iter().map(move |range| &source[range.clone()])
    }
}

/// The number between `start` and the next CR LF, and where that ends; `None` if it may still come.
fn header(buffer: &[u8], start: usize) -> Result<Option<(i64, usize)>, ()> {
    let line = &buffer[start..buffer.len().min(start + HEADER_BYTES_MAX)];
    let Some(end) = line.iter().position(|&byte| byte == b'\r') else {
        return if line.len() == HEADER_BYTES_MAX { Err(()) } else { Ok(None) };
    };
    let number = core::str::from_utf8(&line[..end]).map_err(|_| ())?;
    let number = number.parse().map_err(|_| ())?;
    match buffer.get(start + end + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some((number, start + end + 2))),
        Some(_) => Err(()),
    }
}

/// Splits an inline command at blanks. `"..."` knows `\n \r \t \b \a \xHH`, `'...'` knows `\'`.
fn split_words(
    line: &[u8],
    unquoted: &mut Vec<u8>,
    words: &mut Vec<Range<usize>>,
) -> Result<(), ProtocolError> {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Ok(());
        }
        let start = unquoted.len();
        rest = match rest[0] {
            quote @ (b'"' | b'\'') => {
                let after = unquote(&rest[1..], quote, unquoted)?;
                if after.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                    return Err(ProtocolError::UnbalancedQuotes);
                }
                after
            }
            _ => {
                let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
                unquoted.extend_from_slice(&rest[..end]);
                &rest[end..]
            }
        };
        words.push(start..unquoted.len());
    }
}

/// Copies a quoted word, whose opening quote is gone, and returns what follows it.
fn unquote<'a>(
    mut rest: &'a [u8],
    quote: u8,
    out: &mut Vec<u8>,
) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, length) = match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [byte, after @ ..] if *byte == quote => return Ok(after),
            [b'\\', escaped @ ..] if quote == b'"' => unescape(escaped),
            [b'\\', b'\'', ..] => (b'\'', 2),
            [byte, ..] => (*byte, 1),
        };
        out.push(byte);
        rest = &rest[length..];
    }
}

/// What follows a backslash: the byte meant, and the length of all including the backslash.
fn unescape(escaped: &[u8]) -> (u8, usize) {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    match escaped {
        [b'x', high, low, ..] => match (digit(*high), digit(*low)) {
            (Some(high), Some(low)) => (high * 16 + low, 4),
            (None, _) | (_, None) => (b'x', 2),
        },
        [b'n', ..] => (b'\n', 2),
        [b'r', ..] => (b'\r', 2),
        [b't', ..] => (b'\t', 2),
        [b'b', ..] => (0x08, 2),
        [b'a', ..] => (0x07, 2),
        [other, ..] => (*other, 2),
        [] => (b'\\', 1),
    }
}

#[cfg(test)]
mod tests;
