//! The form of a script: blocks of commands, each followed by what it brought about.
//!
//! Invariant: parsing and writing back a script with its own outputs gives the same bytes.

use std::collections::VecDeque;
use std::time::Duration;

use raft_core::{LogIndex, ReplicaId};

/// Parts commands from their output.
const RULE: &str = "---";

pub(crate) struct Script {
    pub(crate) blocks: Vec<Block>,
    /// Comments after the last block.
    tail: Vec<String>,
}

pub(crate) struct Block {
    /// Comments, commands and empty lines as they stand in the file.
    head: Vec<String>,
    /// The number of the first of them.
    line: usize,
}

impl Block {
    /// The commands with their line numbers.
    pub(crate) fn commands(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.head.iter().enumerate().map(|(at, text)| (self.line + at, text.trim()));
        lines.filter(|(_, text)| is_command(text))
    }
}

fn is_command(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('#')
}

impl Script {
    /// Reads a script. What it expects is not kept: whoever wants to know compares the files.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let opens = text.lines().take_while(|line| line.starts_with('#')).last();
        if opens.is_none_or(|line| !line.ends_with('.')) {
            return Err(String::from("a script opens with a sentence that states its claim"));
        }
        let mut blocks = Vec::new();
        let mut head: Vec<String> = Vec::new();
        let mut first = 1;
        let mut lines = text.lines().enumerate();
        while let Some((at, line)) = lines.next() {
            if head.is_empty() {
                first = at + 1;
            }
            if line != RULE {
                head.push(line.to_string());
                continue;
            }
            if !head.iter().any(|line| is_command(line.trim())) {
                return Err(format!("line {}: no command before the rule", at + 1));
            }
            blocks.push(Block { head: std::mem::take(&mut head), line: first });
            // What it brought about ends with an empty line.
            for (_, line) in lines.by_ref() {
                if line.is_empty() {
                    break;
                }
            }
        }
        if head.iter().any(|line| is_command(line.trim())) {
            blocks.push(Block { head: std::mem::take(&mut head), line: first });
        }
        Ok(Self { blocks, tail: head })
    }

    /// The script as a file, telling these outputs.
    pub(crate) fn with_outputs(&self, outputs: &[Vec<String>]) -> String {
        let blocks = self.blocks.iter().zip(outputs).map(|(block, output)| {
            let head = block.head.join("\n");
            let output = output.join("\n");
            format!("{}\n{RULE}\n{output}\n", head.trim_end())
        });
        let mut text = blocks.collect::<Vec<_>>().join("\n");
        if !self.tail.is_empty() {
            text.push('\n');
            text.push_str(&self.tail.join("\n"));
            text.push('\n');
        }
        text
    }
}

/// The words of one command. Each is taken once; one that nobody took is an error.
pub(crate) struct Args<'a> {
    words: VecDeque<&'a str>,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Args<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let (mut words, mut pairs) = (VecDeque::new(), Vec::new());
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some(pair) => pairs.push(pair),
                None => words.push_back(word),
            }
        }
        Self { words, pairs }
    }

    /// The next word.
    pub(crate) fn word(&mut self, what: &str) -> Result<&'a str, String> {
        self.words.pop_front().ok_or_else(|| format!("{what} is missing"))
    }

    /// The next word, if there is one.
    pub(crate) fn any_word(&mut self) -> Option<&'a str> {
        self.words.pop_front()
    }

    /// Whether the next word is this one; it is taken then.
    pub(crate) fn says(&mut self, word: &str) -> bool {
        let says = self.words.front() == Some(&word);
        if says {
            self.words.pop_front();
        }
        says
    }

    /// The next word as a node, and replica, number.
    pub(crate) fn node(&mut self) -> Result<ReplicaId, String> {
        number(self.word("a node")?).map(ReplicaId::new)
    }

    /// The next word as a node, if there is one.
    pub(crate) fn any_node(&mut self) -> Result<Option<ReplicaId>, String> {
        self.any_word().map(|word| number(word).map(ReplicaId::new)).transpose()
    }

    pub(crate) fn index(&mut self) -> Result<LogIndex, String> {
        number(self.word("an index")?).map(LogIndex::new)
    }

    pub(crate) fn duration(&mut self) -> Result<Duration, String> {
        duration(self.word("a duration")?)
    }

    /// The value of `key=`, if it was given.
    pub(crate) fn value(&mut self, key: &str) -> Option<&'a str> {
        let at = self.pairs.iter().position(|(name, _)| *name == key)?;
        Some(self.pairs.remove(at).1)
    }

    /// The next `key=value`, whatever the key.
    pub(crate) fn any_pair(&mut self) -> Option<(&'a str, &'a str)> {
        (!self.pairs.is_empty()).then(|| self.pairs.remove(0))
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), String> {
        match (self.words.front(), self.pairs.first()) {
            (None, None) => Ok(()),
            (Some(word), _) => Err(format!("nobody uses {word}")),
            (None, Some((key, value))) => Err(format!("nobody uses {key}={value}")),
        }
    }
}

pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// Numbers with commas between them.
pub(crate) fn numbers<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
    text.split(',').map(number).collect()
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    // Those that end like another come first.
    let units = [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("h", 3_600_000_000)];
    for (unit, micros) in units {
        if let Some(amount) = text.strip_suffix(unit) {
            return number::<u64>(amount).map(|amount| Duration::from_micros(amount * micros));
        }
    }
    Err(format!("{text} is no duration: 100us, 100ms, 1s"))
}

/// Where two texts differ, line by line.
pub(crate) fn difference(name: &str, expected: &str, told: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), told.lines().collect());
    // The longest common subsequence: scripts are short.
    let mut common = vec![vec![0usize; new.len() + 1]; old.len() + 1];
    for a in (0..old.len()).rev() {
        for b in (0..new.len()).rev() {
            common[a][b] = if old[a] == new[b] {
                common[a + 1][b + 1] + 1
            } else {
                common[a + 1][b].max(common[a][b + 1])
            };
        }
    }
    let mut lines = vec![format!("{name}: - is expected, + is what happens")];
    let (mut a, mut b) = (0, 0);
    while a < old.len() || b < new.len() {
        if a < old.len() && b < new.len() && old[a] == new[b] {
            (a, b) = (a + 1, b + 1);
        } else if b == new.len() || (a < old.len() && common[a + 1][b] >= common[a][b + 1]) {
            lines.push(format!("{:>5} - {}", a + 1, old[a]));
            a += 1;
        } else {
            lines.push(format!("{:>5} + {}", b + 1, new[b]));
            b += 1;
        }
    }
    lines.join("\n")
}

#[test]
fn a_script_with_its_own_outputs_is_the_same_file() {
    let text =
        "# It holds.\ncluster nodes=1\n\n# And again.\nwait 1s\n---\na\nb\n\nwait 2s\n---\nc\n";
    let script = Script::parse(text).expect("a sound script");
    let commands: Vec<_> = script.blocks.iter().flat_map(Block::commands).collect();
    assert_eq!(commands, [(2, "cluster nodes=1"), (5, "wait 1s"), (10, "wait 2s")]);
    let outputs = [vec![String::from("a"), String::from("b")], vec![String::from("c")]];
    assert_eq!(script.with_outputs(&outputs), text);
    assert!(Script::parse("cluster nodes=1\n").is_err(), "no claim");
}

#[test]
fn a_word_that_nobody_uses_is_an_error() {
    let mut args = Args::new("3 to 5 bytes=7");
    assert_eq!(args.node(), Ok(ReplicaId::new(3)));
    assert!(args.says("to"));
    assert_eq!(args.index(), Ok(LogIndex::new(5)));
    assert_eq!(args.finish(), Err(String::from("nobody uses bytes=7")));
}

#[test]
fn a_difference_names_the_lines() {
    let told = difference("x", "a\nb\nc\n", "a\nc\nd\n");
    assert_eq!(told, "x: - is expected, + is what happens\n    2 - b\n    3 + d");
}
