//! The table of commands: what a client may send, and where its keys are.
//!
//! `COMMAND` is generated from this table, and cluster clients route by it, so a command missing
//! here does not exist for them. Numbers have Redis' meaning: arity counts the name and is
//! negative for "at least"; a last key of -1 is the last argument.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::reply::Reply;
use super::request::{ArgumentError, DataCommand};
use crate::resp::parser::Request;

/// One command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CommandSpec {
    /// Its name in small letters.
    pub name: &'static str,
    /// How many arguments it takes, the name included; negative: at least so many.
    pub arity: i32,
    /// What clients need to know about it.
    pub flags: &'static [&'static str],
    /// The number of the first argument that is a key; zero if there is none.
    pub first_key: i32,
    /// The number of the last; negative counts from the end.
    pub last_key: i32,
    /// From one key to the next.
    pub step: i32,
    /// Who carries it out.
    pub(super) handler: Handler,
}

/// Who carries a command out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Handler {
    /// The group that owns its keys.
    Data(DataCommand),
    /// This connection, by itself.
    Local(LocalCommand),
}

/// Commands that concern no key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum LocalCommand {
    Asking,
    Auth,
    Client,
    Cluster,
    Command,
    Config,
    DbSize,
    Discard,
    Echo,
    Exec,
    Flush,
    Hello,
    Info,
    Multi,
    Ping,
    Quit,
    ReadOnly,
    ReadWrite,
    Reset,
    Select,
    Time,
    Unwatch,
    Watch,
}

/// All commands, sorted by name.
pub const COMMANDS: &[CommandSpec] = {
    use DataCommand as D;
    use LocalCommand as L;

    const FAST_READ: &[&str] = &["readonly", "fast"];
    const READ: &[&str] = &["readonly"];
    const WRITE: &[&str] = &["write", "denyoom"];
    const FAST_WRITE: &[&str] = &["write", "denyoom", "fast"];
    const REMOVE: &[&str] = &["write"];
    const FAST_EXPIRE: &[&str] = &["write", "fast"];
    const CONNECTION: &[&str] = &["noscript", "loading", "stale", "fast"];
    const ADMIN: &[&str] = &["admin", "noscript", "loading", "stale"];
    const SERVER: &[&str] = &["loading", "stale"];

    &[
        data("append", 3, FAST_WRITE, KEY, D::Append),
        local("asking", 1, CONNECTION, L::Asking),
        local("auth", -2, CONNECTION, L::Auth),
        local("client", -2, ADMIN, L::Client),
        local("cluster", -2, SERVER, L::Cluster),
        local("command", -1, SERVER, L::Command),
        local("config", -2, ADMIN, L::Config),
        local("dbsize", 1, FAST_READ, L::DbSize),
        data("decr", 2, FAST_WRITE, KEY, D::Decr),
        data("decrby", 3, FAST_WRITE, KEY, D::DecrBy),
        data("del", -2, REMOVE, KEYS, D::Del),
        local("echo", 2, CONNECTION, L::Echo),
        data("exists", -2, FAST_READ, KEYS, D::Exists),
        data("expire", -3, FAST_EXPIRE, KEY, D::Expire),
        data("expireat", -3, FAST_EXPIRE, KEY, D::ExpireAt),
        local("flushall", -1, REMOVE, L::Flush),
        local("flushdb", -1, REMOVE, L::Flush),
        data("get", 2, FAST_READ, KEY, D::Get),
        data("getdel", 2, FAST_EXPIRE, KEY, D::GetDel),
        data("getrange", 4, READ, KEY, D::GetRange),
        data("getset", 3, FAST_WRITE, KEY, D::GetSet),
        local("hello", -1, CONNECTION, L::Hello),
        data("incr", 2, FAST_WRITE, KEY, D::Incr),
        data("incrby", 3, FAST_WRITE, KEY, D::IncrBy),
        local("info", -1, SERVER, L::Info),
        data("mget", -2, FAST_READ, KEYS, D::MGet),
        data("mset", -3, WRITE, PAIRS, D::MSet),
        data("persist", 2, FAST_EXPIRE, KEY, D::Persist),
        data("pexpire", -3, FAST_EXPIRE, KEY, D::PExpire),
        data("pexpireat", -3, FAST_EXPIRE, KEY, D::PExpireAt),
        local("ping", -1, CONNECTION, L::Ping),
        data("psetex", 4, WRITE, KEY, D::PSetEx),
        data("pttl", 2, FAST_READ, KEY, D::PTtl),
        local("quit", -1, CONNECTION, L::Quit),
        local("readonly", 1, CONNECTION, L::ReadOnly),
        local("readwrite", 1, CONNECTION, L::ReadWrite),
        local("reset", 1, CONNECTION, L::Reset),
        local("select", 2, CONNECTION, L::Select),
        data("set", -3, WRITE, KEY, D::Set),
        data("setex", 4, WRITE, KEY, D::SetEx),
        data("setnx", 3, FAST_WRITE, KEY, D::SetNx),
        data("strlen", 2, FAST_READ, KEY, D::StrLen),
        local("time", 1, CONNECTION, L::Time),
        data("ttl", 2, FAST_READ, KEY, D::Ttl),
        data("type", 2, FAST_READ, KEY, D::Type),
        data("unlink", -2, FAST_EXPIRE, KEYS, D::Del),
    ]
};

/// Commands that are known in order to be refused, or to end what a refusal began. `COMMAND` does
/// not tell of them: to clients that ask first, what is not supported does not exist.
const REFUSED: &[CommandSpec] = {
    use LocalCommand as L;
    const FLAGS: &[&str] = &["noscript", "loading", "stale", "fast"];
    &[
        local("discard", 1, FLAGS, L::Discard),
        local("exec", 1, FLAGS, L::Exec),
        local("multi", 1, FLAGS, L::Multi),
        local("unwatch", 1, FLAGS, L::Unwatch),
        local("watch", -2, FLAGS, L::Watch),
    ]
};

/// First key, last key, step.
const KEY: [i32; 3] = [1, 1, 1];
const KEYS: [i32; 3] = [1, -1, 1];
const PAIRS: [i32; 3] = [1, -1, 2];

const fn data(
    name: &'static str,
    arity: i32,
    flags: &'static [&'static str],
    [first_key, last_key, step]: [i32; 3],
    command: DataCommand,
) -> CommandSpec {
    let handler = Handler::Data(command);
    CommandSpec { name, arity, flags, first_key, last_key, step, handler }
}

const fn local(
    name: &'static str,
    arity: i32,
    flags: &'static [&'static str],
    command: LocalCommand,
) -> CommandSpec {
    let handler = Handler::Local(command);
    CommandSpec { name, arity, flags, first_key: 0, last_key: 0, step: 0, handler }
}

/// Longest name in the table.
const NAME_BYTES_MAX: usize = 16;

/// The command of this name, in any case.
pub fn find(name: &[u8]) -> Option<&'static CommandSpec> {
    static BY_NAME: LazyLock<HashMap<&'static [u8], &'static CommandSpec>> = LazyLock::new(|| {
        let all = COMMANDS.iter().chain(REFUSED);
        all.map(|spec| (spec.name.as_bytes(), spec)).collect()
    });

    let mut small = [0; NAME_BYTES_MAX];
    let small = small.get_mut(..name.len())?;
    small.copy_from_slice(name);
    small.make_ascii_lowercase();
    BY_NAME.get(&*small).copied()
}

impl CommandSpec {
    /// Whether so many arguments, the name included, are right.
    pub fn accepts(&self, arguments: usize) -> bool {
        let arity = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { arguments >= arity } else { arguments == arity }
    }

    /// The keys among the arguments of a request that [`accepts`](Self::accepts) let through.
    pub fn keys<'a>(&self, request: &Request<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // Without keys the step is zero and nothing is taken.
        let first = usize::try_from(self.first_key).unwrap_or(0);
        let last = match usize::try_from(self.last_key) {
            Ok(last) => last,
            Err(_) => request.len() - 1,
        };
        let count = if first == 0 { 0 } else { (last + 1).saturating_sub(first) };
        request.from(first).take(count).step_by(self.step.max(1) as usize)
    }
}

/// Answers `COMMAND` and its subcommands.
pub(super) fn answer(request: &Request<'_>) -> Result<Reply, ArgumentError> {
    let Some(subcommand) = request.argument(1) else {
        return Ok(Reply::Array(COMMANDS.iter().map(describe).collect()));
    };
    match subcommand.to_ascii_lowercase().as_slice() {
        b"count" => Ok(Reply::Integer(COMMANDS.len() as i64)),
        b"list" => Ok(Reply::Array(COMMANDS.iter().map(|spec| Reply::text(spec.name)).collect())),
        b"docs" => Ok(Reply::Map(Vec::new())),
        b"info" if request.len() == 2 => Ok(Reply::Array(COMMANDS.iter().map(describe).collect())),
        b"info" => {
            let told = |spec: &&CommandSpec| COMMANDS.contains(spec);
            let known = |name: &[u8]| find(name).filter(told).map_or(Reply::Null, describe);
            Ok(Reply::Array(request.from(2).map(known).collect()))
        }
        b"getkeys" => {
            let inner = request.tail(2);
            let spec = inner
                .argument(0)
                .and_then(find)
                .filter(|spec| spec.first_key > 0 && spec.accepts(inner.len()))
                .ok_or(ArgumentError::Other("ERR Invalid command specified"))?;
            let keys = spec.keys(&inner).map(|key| Reply::Bulk(key.to_vec().into()));
            Ok(Reply::Array(keys.collect()))
        }
        _ => Err(ArgumentError::unknown_subcommand("COMMAND", subcommand)),
    }
}

fn describe(spec: &CommandSpec) -> Reply {
    let number = |value: i32| Reply::Integer(i64::from(value));
    Reply::Array(vec![
        Reply::text(spec.name),
        number(spec.arity),
        Reply::Array(spec.flags.iter().map(|flag| Reply::Simple(flag)).collect()),
        number(spec.first_key),
        number(spec.last_key),
        number(spec.step),
        // ACL categories, tips, key specifications, subcommands.
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
    ])
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::resp::parser::RequestParser;

    #[test]
    fn the_table_is_sorted_and_every_name_is_found_in_any_case() {
        assert!(COMMANDS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for spec in COMMANDS {
            assert!(spec.name.len() <= NAME_BYTES_MAX);
            assert_eq!(find(spec.name.to_ascii_uppercase().as_bytes()), Some(spec));
        }
        for spec in REFUSED {
            assert_eq!(find(spec.name.as_bytes()), Some(spec));
            assert!(!COMMANDS.iter().any(|told| told.name == spec.name));
        }
        assert_eq!(find(b"nosuchcommand"), None);
        assert_eq!(find(b"a name longer than any command has"), None);
        assert_eq!(find(b""), None);
    }

    #[test]
    fn names_arities_and_key_positions_are_pinned() {
        // Clients route by this table: read a difference as you would read code.
        let mut table = String::new();
        for spec in COMMANDS {
            let CommandSpec { name, arity, first_key, last_key, step, .. } = spec;
            let _ = writeln!(table, "{name} {arity} {first_key} {last_key} {step}");
        }
        assert_eq!(table, include_str!("commands.golden"));
    }

    #[test]
    fn keys_are_where_the_table_says() {
        let table: &[(&str, &[&[u8]])] = &[
            ("GET a", &[b"a"]),
            ("SET a 1 EX 5", &[b"a"]),
            ("MGET a b c", &[b"a", b"b", b"c"]),
            ("MSET a 1 b 2", &[b"a", b"b"]),
            ("PING hello", &[]),
        ];
        for (line, keys) in table {
            let line = format!("{line}\r\n");
            let mut parser = RequestParser::default();
            let request = parser.next(line.as_bytes()).expect("inline").expect("complete");
            let spec = find(request.argument(0).expect("a name")).expect("in the table");
            assert_eq!(spec.keys(&request).collect::<Vec<_>>(), *keys);
        }
    }
}
