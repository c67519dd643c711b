//! From a request's arguments to a command or query for the state machine, and back from its
//! output to a reply.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use super::backend::OperationKind;
use super::commands::CommandSpec;
use super::parser::Request;
use super::reply::Reply;
use crate::kv::command::DeadlineCondition;
use crate::kv::slots::key_slot;
use crate::kv::{Command, Condition, Expiry, KvError, Output, Query, QueryKind, ReadOutput};

/// Commands on keys. One variant per way to read the arguments.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum DataCommand {
    Append,
    Decr,
    DecrBy,
    Del,
    Exists,
    Expire,
    ExpireAt,
    Get,
    GetDel,
    GetRange,
    GetSet,
    Incr,
    IncrBy,
    MGet,
    MSet,
    Persist,
    PExpire,
    PExpireAt,
    PSetEx,
    PTtl,
    Set,
    SetEx,
    SetNx,
    StrLen,
    Ttl,
    Type,
}

/// How an output is to be told to the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    /// As it is.
    Plain,
    /// As it is: a copy of a value that stays, so the next command like it has one as well.
    Copied,
    /// As it is: a value that has left the machine with the command.
    Taken,
    /// `SETNX`: done or not, as 1 or 0.
    Flag,
    /// `TYPE`: how many exist, as a word.
    Type,
    /// `TTL`: what is left until the deadline, in seconds.
    Seconds,
    /// `PTTL`: the same in milliseconds.
    Milliseconds,
    /// `GETRANGE`: a part of the value; negative positions count from the end.
    Range { start: i64, end: i64 },
}

/// A request that cannot be carried out as it stands; nothing has happened.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum ArgumentError {
    #[error("ERR unknown command '{0}'")]
    UnknownCommand(String),
    #[error("ERR unknown subcommand '{subcommand}' of {command}")]
    UnknownSubcommand { command: &'static str, subcommand: String },
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(&'static str),
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    #[error("ERR invalid expire time in '{0}' command")]
    InvalidExpiry(&'static str),
    #[error("CROSSSLOT Keys in request don't hash to the same slot")]
    CrossSlot,
    #[error("{0}")]
    Other(&'static str),
}

impl ArgumentError {
    pub(super) fn unknown_command(name: &[u8]) -> Self {
        Self::UnknownCommand(printable(name))
    }

    pub(super) fn unknown_subcommand(command: &'static str, subcommand: &[u8]) -> Self {
        Self::UnknownSubcommand { command, subcommand: printable(subcommand) }
    }

    pub(super) fn into_reply(self) -> Reply {
        Reply::error(self.to_string())
    }
}

/// The slot of all keys of a request.
pub(super) fn slot_of(spec: &CommandSpec, request: &Request<'_>) -> Result<u16, ArgumentError> {
    let mut slots = spec.keys(request).map(key_slot);
    let first = slots.next().ok_or(ArgumentError::Arity(spec.name))?;
    if slots.all(|slot| slot == first) { Ok(first) } else { Err(ArgumentError::CrossSlot) }
}

/// Encodes the command or query of a request into `out`.
///
/// `reply_bytes_max` is the room for a read's answer, as in [`Query`]. A time from now on must
/// end, by `wall_time`, before milliseconds have no number any more.
pub(super) fn translate(
    command: DataCommand,
    spec: &CommandSpec,
    request: &Request<'_>,
    reply_bytes_max: u64,
    wall_time: &dyn Fn() -> u64,
    out: &mut BytesMut,
) -> Result<(OperationKind, Shape), ArgumentError> {
    use DataCommand as D;

    let argument = |index| request.argument(index).ok_or(ArgumentError::Arity(spec.name));
    let key = argument(1)?;
    let set = |value, expiry, condition, return_old| Command::Set {
        key,
        value,
        condition,
        expiry,
        return_old,
    };
    let increment = |by| Command::Increment { key, by };
    let write = |command: Command<'_>, shape, out: &mut BytesMut| {
        command.encode(out);
        Ok((OperationKind::Write, shape))
    };
    let read = |kind: QueryKind<'_>, shape, out: &mut BytesMut| {
        Query { reply_bytes_max, kind }.encode(out);
        Ok((OperationKind::Read, shape))
    };
    let keys = || spec.keys(request).collect();
    match command {
        D::Get => read(QueryKind::Value { key }, Shape::Plain, out),
        D::GetRange => {
            let (start, end) = (integer(argument(2)?)?, integer(argument(3)?)?);
            read(QueryKind::Value { key }, Shape::Range { start, end }, out)
        }
        D::MGet => read(QueryKind::Values { keys: keys() }, Shape::Plain, out),
        D::Exists => read(QueryKind::Exists { keys: keys() }, Shape::Plain, out),
        D::Type => read(QueryKind::Exists { keys: keys() }, Shape::Type, out),
        D::StrLen => read(QueryKind::Length { key }, Shape::Plain, out),
        D::Ttl => read(QueryKind::Deadline { key }, Shape::Seconds, out),
        D::PTtl => read(QueryKind::Deadline { key }, Shape::Milliseconds, out),
        D::Set => {
            let set = set_with_options(key, request, wall_time)?;
            let shape = match set {
                Command::Set { condition: Condition::IfAbsent, return_old: true, .. } => {
                    Shape::Copied
                }
                Command::Set { return_old: true, .. } => Shape::Taken,
                _ => Shape::Plain,
            };
            write(set, shape, out)
        }
        D::SetNx => {
            let set = set(argument(2)?, Expiry::Never, Condition::IfAbsent, false);
            write(set, Shape::Flag, out)
        }
        D::SetEx | D::PSetEx => {
            let unit = if command == D::SetEx { Unit::Seconds } else { Unit::Milliseconds };
            let ms = positive_time(argument(2)?, unit, spec.name)?;
            let expiry = after(ms, wall_time, spec.name)?;
            write(set(argument(3)?, expiry, Condition::Always, false), Shape::Plain, out)
        }
        D::GetSet => {
            write(set(argument(2)?, Expiry::Never, Condition::Always, true), Shape::Taken, out)
        }
        D::GetDel => write(Command::Take { key }, Shape::Taken, out),
        D::Del => write(Command::Delete { keys: keys() }, Shape::Plain, out),
        D::Append => write(Command::Append { key, value: argument(2)? }, Shape::Plain, out),
        D::Incr => write(increment(1), Shape::Plain, out),
        D::Decr => write(increment(-1), Shape::Plain, out),
        D::IncrBy => write(increment(integer(argument(2)?)?), Shape::Plain, out),
        D::DecrBy => {
            let by = integer(argument(2)?)?.checked_neg();
            let by = by.ok_or(ArgumentError::Other("ERR decrement would overflow"))?;
            write(increment(by), Shape::Plain, out)
        }
        D::MSet => {
            if request.len().is_multiple_of(2) {
                return Err(ArgumentError::Arity(spec.name));
            }
            let pairs = request.from(1).collect();
            write(Command::SetMany { pairs }, Shape::Plain, out)
        }
        D::Persist => {
            let condition = DeadlineCondition::Always;
            write(Command::Expire { key, expiry: Expiry::Never, condition }, Shape::Plain, out)
        }
        D::Expire | D::PExpire | D::ExpireAt | D::PExpireAt => {
            let unit = match command {
                D::Expire | D::ExpireAt => Unit::Seconds,
                _ => Unit::Milliseconds,
            };
            // A time that has passed is legal here, and deletes the key.
            let ms = time(argument(2)?, unit, spec.name)?.max(0) as u64;
            let expiry = match command {
                D::Expire | D::PExpire => after(ms, wall_time, spec.name)?,
                _ => Expiry::At(ms),
            };
            let condition = deadline_condition(request)?;
            write(Command::Expire { key, expiry, condition }, Shape::Plain, out)
        }
    }
}

/// A query that differs from an encoded one in the room for its answer.
pub(super) fn with_limit(query: &[u8], reply_bytes_max: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(query.len());
    match Query::decode(query) {
        Ok(query) => Query { reply_bytes_max, ..query }.encode(&mut out),
        // It is our own; if it were not, the machine would say so.
        Err(_) => out.extend_from_slice(query),
    }
    out.freeze()
}

/// The reply to a write.
pub(super) fn write_reply(output: &Bytes, shape: Shape) -> Reply {
    match Output::decode(output) {
        Ok(output) => reply(output, shape, 0),
        Err(error) => Reply::error(format!("ERR undecodable output: {error}")),
    }
}

/// The reply to a read. What is left of a deadline is counted from the time that the leader
/// would have stamped then: log time itself stands still while a group has nothing to do.
pub(super) fn read_reply(read: ReadOutput, shape: Shape, time: u64) -> Reply {
    let now = time.max(read.log_time);
    reply(read.output, shape, now)
}

fn reply(output: Output, shape: Shape, now: u64) -> Reply {
    match (output, shape) {
        (Output::Error(error), _) => Reply::Error(match error {
            KvError::InvalidExpiry => Cow::Borrowed("ERR invalid expire time"),
            error => Cow::Owned(format!("ERR {error}")),
        }),
        (Output::Done, Shape::Flag) => Reply::Integer(1),
        (Output::Nil, Shape::Flag) => Reply::Integer(0),
        (Output::Done, _) => Reply::OK,
        (Output::Nil, Shape::Seconds | Shape::Milliseconds) => Reply::Integer(-2),
        (Output::Nil, Shape::Range { .. }) => Reply::Bulk(Bytes::new()),
        (Output::Nil, _) => Reply::Null,
        (Output::Integer(0), Shape::Type) => Reply::Simple("none"),
        (Output::Integer(_), Shape::Type) => Reply::Simple("string"),
        (Output::Integer(value), _) => Reply::Integer(value),
        (Output::Value(value), Shape::Range { start, end }) => Reply::Bulk(part(value, start, end)),
        (Output::Value(value), _) => Reply::Bulk(value),
        (Output::Values(values), _) => {
            Reply::Array(values.into_iter().map(|v| v.map_or(Reply::Null, Reply::Bulk)).collect())
        }
        (Output::Deadline(None), _) => Reply::Integer(-1),
        (Output::Deadline(Some(at)), shape) => {
            let left = at.saturating_sub(now);
            Reply::Integer(match shape {
                // Rounded as Redis rounds it.
                Shape::Seconds => (left.saturating_add(500) / 1000) as i64,
                _ => i64::try_from(left).unwrap_or(i64::MAX),
            })
        }
        (Output::TooLarge { bytes }, _) => {
            Reply::error(format!("ERR the answer has {bytes} bytes, too many"))
        }
    }
}

/// `GETRANGE`: positions are inclusive, negative ones count from the end.
fn part(value: Bytes, start: i64, end: i64) -> Bytes {
    let length = value.len() as i64;
    let absolute = |position: i64| {
        if position < 0 { position + length } else { position }
    };
    let start = absolute(start).max(0);
    let end = absolute(end).min(length - 1);
    if start > end || start >= length {
        return Bytes::new();
    }
    // Both are within the value now.
    value.slice(start as usize..=end as usize)
}

fn set_with_options<'a>(
    key: &'a [u8],
    request: &Request<'a>,
    wall_time: &dyn Fn() -> u64,
) -> Result<Command<'a>, ArgumentError> {
    let value = request.argument(2).ok_or(ArgumentError::Arity("set"))?;
    let mut condition = Condition::Always;
    let mut expiry = None;
    let mut return_old = false;
    let mut options = request.from(3);
    while let Some(option) = options.next() {
        let mut once = |new| match expiry.replace(new) {
            None => Ok(()),
            Some(_) => Err(ArgumentError::Syntax),
        };
        let mut number = |unit| {
            let number = options.next().ok_or(ArgumentError::Syntax)?;
            positive_time(number, unit, "set")
        };
        match upper(option).as_slice() {
            b"NX" if condition == Condition::Always => condition = Condition::IfAbsent,
            b"XX" if condition == Condition::Always => condition = Condition::IfPresent,
            b"GET" => return_old = true,
            b"KEEPTTL" => once(Expiry::Keep)?,
            b"EX" => once(after(number(Unit::Seconds)?, wall_time, "set")?)?,
            b"PX" => once(after(number(Unit::Milliseconds)?, wall_time, "set")?)?,
            b"EXAT" => once(Expiry::At(number(Unit::Seconds)?))?,
            b"PXAT" => once(Expiry::At(number(Unit::Milliseconds)?))?,
            _ => return Err(ArgumentError::Syntax),
        }
    }
    let expiry = expiry.unwrap_or(Expiry::Never);
    Ok(Command::Set { key, value, condition, expiry, return_old })
}

fn deadline_condition(request: &Request<'_>) -> Result<DeadlineCondition, ArgumentError> {
    let mut options = request.from(3);
    let condition = match options.next().map(upper).as_deref() {
        None => DeadlineCondition::Always,
        Some(b"NX") => DeadlineCondition::IfNone,
        Some(b"XX") => DeadlineCondition::IfSome,
        Some(b"GT") => DeadlineCondition::IfLater,
        Some(b"LT") => DeadlineCondition::IfEarlier,
        Some(_) => return Err(ArgumentError::Syntax),
    };
    if options.next().is_some() { Err(ArgumentError::Syntax) } else { Ok(condition) }
}

#[derive(Clone, Copy)]
enum Unit {
    Seconds,
    Milliseconds,
}

/// A time in milliseconds, possibly negative.
fn time(bytes: &[u8], unit: Unit, command: &'static str) -> Result<i64, ArgumentError> {
    let factor = match unit {
        Unit::Seconds => 1000,
        Unit::Milliseconds => 1,
    };
    integer(bytes)?.checked_mul(factor).ok_or(ArgumentError::InvalidExpiry(command))
}

fn positive_time(bytes: &[u8], unit: Unit, command: &'static str) -> Result<u64, ArgumentError> {
    match u64::try_from(time(bytes, unit, command)?) {
        Ok(0) | Err(_) => Err(ArgumentError::InvalidExpiry(command)),
        Ok(ms) => Ok(ms),
    }
}

/// So many milliseconds from now on, if the moment can be told in 63 bits, as in Redis.
fn after(
    ms: u64,
    wall_time: &dyn Fn() -> u64,
    command: &'static str,
) -> Result<Expiry, ArgumentError> {
    match wall_time().checked_add(ms) {
        Some(at) if at <= i64::MAX as u64 => Ok(Expiry::After(ms)),
        Some(_) | None => Err(ArgumentError::InvalidExpiry(command)),
    }
}

pub(super) fn integer(bytes: &[u8]) -> Result<i64, ArgumentError> {
    core::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.starts_with('+'))
        .and_then(|text| text.parse().ok())
        .ok_or(ArgumentError::NotAnInteger)
}

/// The option in capitals; cut at a length no option has.
pub(super) fn upper(option: &[u8]) -> Vec<u8> {
    option[..option.len().min(32)].to_ascii_uppercase()
}

/// What a client sent, short and harmless enough for an error message.
fn printable(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(64)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::super::commands::{self, Handler};
    use super::super::parser::RequestParser;
    use super::*;

    /// The wall clock of these tests.
    const NOW: u64 = 1_000;

    fn translated(line: &str) -> Result<(OperationKind, Shape, BytesMut), ArgumentError> {
        let line = format!("{line}\r\n");
        let mut parser = RequestParser::default();
        let request = parser.next(line.as_bytes()).expect("inline").expect("complete");
        let spec = commands::find(request.argument(0).expect("a name")).expect("in the table");
        assert!(spec.accepts(request.len()), "{line}");
        let Handler::Data(command) = spec.handler else { panic!("{line} has no keys") };
        slot_of(spec, &request)?;
        let mut out = BytesMut::new();
        let (kind, shape) = translate(command, spec, &request, 0, &|| NOW, &mut out)?;
        Ok((kind, shape, out))
    }

    fn command(line: &str, check: impl FnOnce(Command<'_>)) {
        let (kind, _, payload) = translated(line).expect("a legal command");
        assert_eq!(kind, OperationKind::Write, "{line}");
        check(Command::decode(&payload).expect("our own encoding"));
    }

    #[test]
    fn the_options_of_set_come_in_any_order_and_case() {
        command("set k v px 250 Nx get", |command| {
            let expected = Command::Set {
                key: b"k",
                value: b"v",
                condition: Condition::IfAbsent,
                expiry: Expiry::After(250),
                return_old: true,
            };
            assert_eq!(command, expected);
        });
        let expiries = [
            ("SET k v", Expiry::Never),
            ("SET k v EX 2", Expiry::After(2000)),
            ("SET k v KEEPTTL XX", Expiry::Keep),
            ("SET k v EXAT 5", Expiry::At(5000)),
            ("SET k v PXAT 5", Expiry::At(5)),
            ("SET k v PX 9223372036854774807", Expiry::After(i64::MAX as u64 - NOW)),
            ("SETEX k 2 v", Expiry::After(2000)),
            ("PSETEX k 2 v", Expiry::After(2)),
        ];
        for (line, expected) in expiries {
            command(line, |command| {
                let Command::Set { expiry, value, .. } = command else { panic!("{command:?}") };
                assert_eq!((expiry, value), (expected, &b"v"[..]), "{line}");
            });
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_it_reaches_the_log() {
        use ArgumentError::{Arity, CrossSlot, InvalidExpiry, NotAnInteger, Other, Syntax};
        let table = [
            ("SET k v NX XX", Syntax),
            ("SET k v EX 1 PX 1", Syntax),
            ("SET k v EX 1 KEEPTTL", Syntax),
            ("SET k v EX", Syntax),
            ("SET k v WHAT", Syntax),
            ("SET k v EX 0", InvalidExpiry("set")),
            ("SET k v EX -1", InvalidExpiry("set")),
            ("SET k v EX 9223372036854775807", InvalidExpiry("set")),
            ("SET k v EX 9223372036854775", InvalidExpiry("set")),
            ("SET k v PX 9223372036854775807", InvalidExpiry("set")),
            ("SET k v PX 9223372036854774808", InvalidExpiry("set")),
            ("PSETEX k 9223372036854774808 v", InvalidExpiry("psetex")),
            ("PEXPIRE k 9223372036854774808", InvalidExpiry("pexpire")),
            ("DECRBY k -9223372036854775808", Other("ERR decrement would overflow")),
            ("SET k v EX x", NotAnInteger),
            ("INCRBY k 1.5", NotAnInteger),
            ("EXPIRE k 1 ZZ", Syntax),
            ("EXPIRE k 1 NX XX", Syntax),
            ("EXPIRE k 9223372036854775807", InvalidExpiry("expire")),
            ("MSET {t}a 1 {t}b", Arity("mset")),
            ("MSET a 1 b 2", CrossSlot),
            ("MGET a b", CrossSlot),
            ("DEL a b", CrossSlot),
        ];
        for (line, error) in table {
            assert_eq!(translated(line).err(), Some(error), "{line}");
        }
    }

    #[test]
    fn an_expiry_in_the_past_is_legal_and_means_at_once() {
        for line in ["EXPIRE k -5", "PEXPIRE k 0"] {
            command(line, |command| {
                let Command::Expire { expiry, .. } = command else { panic!("{command:?}") };
                assert_eq!(expiry, Expiry::After(0), "{line}");
            });
        }
    }

    #[test]
    fn what_is_left_of_a_deadline_is_rounded_as_in_redis() {
        let left = |at, shape, wall_time| {
            let output = Output::Deadline(Some(at));
            read_reply(
                ReadOutput { log_time: 1000, next_deadline: Some(at), output },
                shape,
                wall_time,
            )
        };
        assert_eq!(left(2499, Shape::Seconds, 0), Reply::Integer(1));
        assert_eq!(left(2500, Shape::Seconds, 0), Reply::Integer(2));
        assert_eq!(left(2500, Shape::Milliseconds, 0), Reply::Integer(1500));
        assert_eq!(left(2500, Shape::Milliseconds, 2000), Reply::Integer(500));
        assert_eq!(left(2500, Shape::Milliseconds, 9000), Reply::Integer(0));
    }

    #[test]
    fn a_range_is_cut_to_the_value() {
        let table = [
            (0, -1, "hello"),
            (1, 3, "ell"),
            (-3, -2, "ll"),
            (3, 1, ""),
            (9, 12, ""),
            (-100, 100, "hello"),
            (i64::MIN, i64::MAX, "hello"),
        ];
        for (start, end, expected) in table {
            let value = Bytes::from_static(b"hello");
            assert_eq!(part(value, start, end), expected, "{start} {end}");
        }
        assert_eq!(part(Bytes::new(), 0, -1), "");
    }
}
