//! What a connection remembers of its client, and the commands that concern only the two.
//!
//! Some commands give those that follow another meaning. Where one of them is refused, its
//! followers, sent in the same breath, must not run with the meaning they were not meant to have:
//!
//! | command | here | what follows |
//! |---|---|---|
//! | `MULTI` | refused | nothing runs until `EXEC` (refused as well), `DISCARD`, `RESET` |
//! | `WATCH` | refused | as it would: the `MULTI` it is for is refused |
//! | `UNWATCH` | done: nothing is watched | as it would |
//! | `SELECT n` | refused but for 0 | no key is touched until `SELECT 0`, `RESET` |
//! | `CLIENT REPLY` | done | silent, as asked: errors that nobody waits for would be taken for replies to others |
//! | `CLIENT TRACKING`, `CACHING` | refused | the same answers, and nobody is told of changes |
//! | `HELLO` | done; refused for 4, `AUTH` | in the protocol there was: replies name their types |
//! | `AUTH` | refused, as by a Redis without a password | open to all, as before |
//! | `READONLY`, `READWRITE` | done: reads are linearizable everywhere | as it would |
//! | `ASKING` | done: no slot is ever half moved, `ASK` is never said | as it would |
//! | `SUBSCRIBE`, `MONITOR`, `SYNC` | unknown | only words of that mode would have followed |
//! | `RESET` | done | all of the above begins anew |

use raft_core::GroupId;

use super::backend::Backend;
use super::cluster::ClusterAnswer;
use super::commands::{self, CommandSpec, Handler, LocalCommand};
use super::info;
use super::parser::Request;
use super::reply::{Protocol, Reply};
use super::request::{ArgumentError, integer, upper};
use super::server::{Mode, Shared};

/// The version of Redis whose behaviour we follow, for clients that choose features by it.
pub(super) const REDIS_VERSION: &str = "7.2.0";

/// One client, as its connection knows it.
#[derive(Debug)]
pub(super) struct Session {
    id: u64,
    address: String,
    name: Vec<u8>,
    /// How replies are written from now on. It changes when the reply to `HELLO` is written, not
    /// when `HELLO` is read: replies to earlier commands may still be to come.
    pub(super) protocol: Protocol,
    /// `MULTI` was refused: commands were to be part of a transaction, and none is run.
    in_refused_transaction: bool,
    /// `SELECT` was refused: keys were meant for another database, and none is touched.
    in_refused_database: bool,
    /// Which commands are answered at all.
    replies: Replies,
    /// Whether the command being taken is answered.
    is_silent: bool,
    /// The client asked to be told of unknown outcomes instead of being cut off
    /// (`CLIENT CAPA unknown`); the proxy does, for it shares connections among clients.
    pub(super) told_unknown: bool,
    /// The client has no room for longer answers to reads (`CLIENT ROOM bytes`, 0 for any): their
    /// length is told instead (`TOOLONG bytes`). So says the proxy before each read that it
    /// forwards, for a client of its own that may not read.
    pub(super) answer_max: Option<u64>,
}

/// `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Replies {
    #[default]
    On,
    Off,
    /// Not to the next command.
    Skip,
}

/// What became of a command that concerns no key.
pub(super) enum LocalAnswer {
    /// The reply.
    Reply(Reply),
    /// The reply, and the protocol from this reply on.
    Switch(Protocol, Reply),
    /// The reply, after which the connection closes.
    Close(Reply),
    /// A question to one group, about one slot.
    CountKeysInSlot { group: GroupId, slot: u16 },
    /// A question to all groups.
    CountKeys,
}

impl Session {
    pub(super) fn new(id: u64, address: String) -> Self {
        Self {
            id,
            address,
            name: Vec::new(),
            protocol: Protocol::Resp2,
            in_refused_transaction: false,
            in_refused_database: false,
            replies: Replies::default(),
            is_silent: false,
            told_unknown: false,
            answer_max: None,
        }
    }

    /// Where the client speaks from.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The next command is taken up.
    pub(super) fn begin(&mut self) {
        self.is_silent = self.replies != Replies::On;
        if self.replies == Replies::Skip {
            self.replies = Replies::On;
        }
    }

    /// Whether the client wants no reply to the command that was taken up last.
    pub(super) fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// Whether the command may run, known or not.
    pub(super) fn admit(&self, spec: Option<&CommandSpec>) -> Result<(), ArgumentError> {
        use LocalCommand as L;
        let handler = spec.map(|spec| spec.handler);
        let ends_transaction = matches!(
            handler,
            Some(Handler::Local(L::Exec | L::Discard | L::Multi | L::Reset | L::Quit))
        );
        let touches_keys = matches!(handler, Some(Handler::Data(_) | Handler::Local(L::DbSize)));
        if self.in_refused_transaction && !ends_transaction {
            return Err(ArgumentError::Other(
                "ERR Not executed: MULTI was refused, nothing runs until EXEC, DISCARD or RESET",
            ));
        }
        if self.in_refused_database && touches_keys {
            return Err(ArgumentError::Other(
                "ERR Not executed: meant for a database that does not exist; SELECT 0 goes on",
            ));
        }
        Ok(())
    }

    /// Carries out a command that concerns no key.
    pub(super) fn answer<B: Backend>(
        &mut self,
        shared: &Shared<B>,
        command: LocalCommand,
        request: &Request<'_>,
    ) -> Result<LocalAnswer, ArgumentError> {
        let bulk = |bytes: &[u8]| Reply::Bulk(bytes.to_vec().into());
        let argument = request.argument(1);
        Ok(LocalAnswer::Reply(match command {
            LocalCommand::Ping if request.len() > 2 => return Err(ArgumentError::Arity("ping")),
            LocalCommand::Ping => argument.map_or(Reply::Simple("PONG"), bulk),
            LocalCommand::Echo => bulk(argument.unwrap_or_default()),
            LocalCommand::Quit => return Ok(LocalAnswer::Close(Reply::OK)),
            LocalCommand::Reset => {
                self.name.clear();
                self.told_unknown = false;
                self.answer_max = None;
                self.in_refused_transaction = false;
                self.in_refused_database = false;
                (self.replies, self.is_silent) = (Replies::On, false);
                let reply = Reply::Simple("RESET");
                return Ok(LocalAnswer::Switch(Protocol::Resp2, reply));
            }
            LocalCommand::Hello => return self.hello(shared.mode(), request),
            LocalCommand::Auth => {
                return Err(ArgumentError::Other(
                    "ERR AUTH called without any password configured",
                ));
            }
            LocalCommand::Multi if self.in_refused_transaction => {
                return Err(ArgumentError::Other("ERR MULTI calls can not be nested"));
            }
            LocalCommand::Multi => {
                self.in_refused_transaction = true;
                return Err(ArgumentError::Other(
                    "ERR MULTI is not supported: nothing runs until EXEC, DISCARD or RESET",
                ));
            }
            LocalCommand::Exec => {
                let refused = self.end_transaction("ERR EXEC without MULTI");
                return Err(refused.err().unwrap_or(ArgumentError::Other(
                    "EXECABORT Transaction discarded because MULTI is not supported",
                )));
            }
            LocalCommand::Discard => {
                self.end_transaction("ERR DISCARD without MULTI")?;
                Reply::OK
            }
            LocalCommand::Watch => {
                return Err(ArgumentError::Other("ERR WATCH is not supported, nor is MULTI"));
            }
            LocalCommand::Unwatch => Reply::OK,
            LocalCommand::Select => {
                self.in_refused_database = true;
                if integer(argument.unwrap_or_default())? != 0 {
                    return Err(ArgumentError::Other(
                        "ERR DB index is out of range: there is only 0, no key is touched until SELECT 0",
                    ));
                }
                self.in_refused_database = false;
                Reply::OK
            }
            LocalCommand::Client => self.client(request)?,
            LocalCommand::Command => commands::answer(request)?,
            LocalCommand::Config => config(shared, request)?,
            LocalCommand::Info => Reply::text(info::text(shared, request)),
            LocalCommand::Time => {
                let ms = shared.backend().wall_time();
                let (seconds, micros) = (ms / 1000, ms % 1000 * 1000);
                Reply::Array(vec![
                    Reply::text(seconds.to_string()),
                    Reply::text(micros.to_string()),
                ])
            }
            LocalCommand::DbSize => return Ok(LocalAnswer::CountKeys),
            LocalCommand::Flush => {
                return Err(ArgumentError::Other("ERR removing all keys at once is not supported"));
            }
            LocalCommand::Cluster => match shared.mode() {
                Mode::Proxy => {
                    return Err(ArgumentError::Other(
                        "ERR This instance has cluster support disabled",
                    ));
                }
                Mode::Cluster => match shared.answer_cluster(request)? {
                    ClusterAnswer::Reply(reply) => reply,
                    ClusterAnswer::CountKeys { slot } => {
                        let group = shared.topology().slots().group_of(slot);
                        return Ok(LocalAnswer::CountKeysInSlot { group, slot });
                    }
                },
            },
            // Reads are linearizable all the same: a follower that answered from what it has
            // applied would save a client nothing but correctness.
            LocalCommand::ReadOnly | LocalCommand::ReadWrite | LocalCommand::Asking => Reply::OK,
        }))
    }

    fn end_transaction(&mut self, without: &'static str) -> Result<(), ArgumentError> {
        if !std::mem::take(&mut self.in_refused_transaction) {
            return Err(ArgumentError::Other(without));
        }
        Ok(())
    }

    fn hello(&mut self, mode: Mode, request: &Request<'_>) -> Result<LocalAnswer, ArgumentError> {
        let mut options = request.from(1);
        let protocol = match options.next() {
            None => self.protocol,
            Some(b"2") => Protocol::Resp2,
            Some(b"3") => Protocol::Resp3,
            Some(_) => {
                return Err(ArgumentError::Other("NOPROTO unsupported protocol version"));
            }
        };
        while let Some(option) = options.next() {
            match upper(option).as_slice() {
                b"SETNAME" => {
                    let name = options.next().ok_or(ArgumentError::Syntax)?;
                    self.set_name(name)?;
                }
                b"AUTH" => {
                    return Err(ArgumentError::Other(
                        "ERR AUTH called without any password configured",
                    ));
                }
                _ => return Err(ArgumentError::Syntax),
            }
        }
        let number = match protocol {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        };
        let mode = match mode {
            Mode::Cluster => "cluster",
            Mode::Proxy => "standalone",
        };
        let reply = Reply::Map(vec![
            (Reply::text("server"), Reply::text("redis")),
            (Reply::text("version"), Reply::text(REDIS_VERSION)),
            (Reply::text("proto"), Reply::Integer(number)),
            (Reply::text("id"), Reply::Integer(self.id as i64)),
            (Reply::text("mode"), Reply::text(mode)),
            (Reply::text("role"), Reply::text("master")),
            (Reply::text("modules"), Reply::Array(Vec::new())),
        ]);
        Ok(LocalAnswer::Switch(protocol, reply))
    }

    fn client(&mut self, request: &Request<'_>) -> Result<Reply, ArgumentError> {
        let subcommand = request.argument(1).unwrap_or_default();
        let argument = || request.argument(2).ok_or(ArgumentError::Arity("client"));
        Ok(match upper(subcommand).as_slice() {
            b"ID" => Reply::Integer(self.id as i64),
            b"SETINFO" | b"NO-EVICT" | b"NO-TOUCH" => Reply::OK,
            b"SETNAME" => {
                self.set_name(argument()?)?;
                Reply::OK
            }
            b"GETNAME" if self.name.is_empty() => Reply::Null,
            b"GETNAME" => Reply::Bulk(self.name.clone().into()),
            b"INFO" | b"LIST" => Reply::text(format!(
                "id={} addr={} name={} db=0\n",
                self.id,
                self.address,
                self.name.escape_ascii(),
            )),
            b"REPLY" => {
                let replies = match upper(argument()?).as_slice() {
                    b"ON" => Replies::On,
                    b"OFF" => Replies::Off,
                    // To a client that gets none, nothing changes.
                    b"SKIP" if self.replies == Replies::Off => Replies::Off,
                    b"SKIP" => Replies::Skip,
                    _ => return Err(ArgumentError::Syntax),
                };
                (self.replies, self.is_silent) = (replies, replies != Replies::On);
                Reply::OK
            }
            b"CAPA" => {
                let wanted = request.from(2).any(|word| word.eq_ignore_ascii_case(b"unknown"));
                self.told_unknown |= wanted;
                Reply::OK
            }
            b"ROOM" => {
                let room = u64::try_from(integer(argument()?)?);
                let room = room.map_err(|_| ArgumentError::NotAnInteger)?;
                self.answer_max = (room > 0).then_some(room);
                Reply::OK
            }
            _ => return Err(ArgumentError::unknown_subcommand("CLIENT", subcommand)),
        })
    }

    fn set_name(&mut self, name: &[u8]) -> Result<(), ArgumentError> {
        if name.len() > NAME_BYTES_MAX || !name.iter().all(u8::is_ascii_graphic) {
            return Err(ArgumentError::Other(
                "ERR Client names cannot contain spaces, newlines or special characters.",
            ));
        }
        self.name = name.to_vec();
        Ok(())
    }
}

/// A client's name is kept as long as it is connected.
const NAME_BYTES_MAX: usize = 256;

fn config<B: Backend>(shared: &Shared<B>, request: &Request<'_>) -> Result<Reply, ArgumentError> {
    let subcommand = request.argument(1).unwrap_or_default();
    match upper(subcommand).as_slice() {
        b"GET" if request.len() >= 3 => {}
        b"GET" => return Err(ArgumentError::Arity("config|get")),
        _ => return Err(ArgumentError::unknown_subcommand("CONFIG", subcommand)),
    }
    let appendonly = if shared.topology().is_durable() { "yes" } else { "no" };
    let appendfsync = shared.topology().appendfsync();
    let known = [
        ("save", ""),
        ("appendonly", appendonly),
        ("appendfsync", appendfsync),
        ("maxmemory", "0"),
    ];
    let asked = |name: &str| {
        request
            .from(2)
            .any(|pattern| pattern == b"*" || pattern.eq_ignore_ascii_case(name.as_bytes()))
    };
    Ok(Reply::Map(
        known
            .into_iter()
            .filter(|(name, _)| asked(name))
            .map(|(name, value)| (Reply::text(name), Reply::text(value)))
            .collect(),
    ))
}
