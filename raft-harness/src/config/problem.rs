//! What is wrong with a configuration, said so that a person can act on it.
//!
//! Each problem has a rule with a stable id, the place it was found at, what was found, and what
//! to do. The ids are an interface: scripts and documentation name them.

use std::fmt;

/// Which rule a configuration breaks.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Rule {
    /// The file is missing or may not be read.
    Unreadable,
    /// The file is no TOML.
    Syntax,
    /// A value has the wrong type, or is none of those allowed.
    WrongType,
    /// A key that means nothing here.
    UnknownKey,
    /// A key without which no node can start.
    MissingKey,
    /// A number, a name or an address outside its range.
    OutOfRange,
    /// Planned, and not built yet; silently doing something else would be worse.
    NotYet,
    /// Times that cannot work together.
    Timing,
    /// Sizes that cannot work together.
    Sizes,
    /// Something that can lose acknowledged writes was asked for without saying so.
    MayLose,
    /// The peers contradict each other or this node.
    Peers,
    /// The admin port would be reachable from outside.
    AdminExposed,
    /// Two listeners want the same port.
    PortsCollide,
    /// The certificates cannot be used.
    Tls,
    /// A node would not start with it, for a reason that no other rule names.
    Start,
    /// An environment variable that looks like ours and matches no key.
    UnknownVariable,
    /// A strategy or flush policy that gains nothing, or says more than it does.
    Persistence,
    /// A preset that changes nothing, or is meant for a cluster of another size.
    Preset,
    /// The certificate expires soon.
    Expires,
    /// Others can reach the Raft port, and nobody has to prove who it is.
    Open,
    /// Everything would share one connection.
    OneLane,
    /// One more voter would cost nothing and survive one more failure, or one less would cost
    /// nothing.
    EvenVoters,
}

/// Whether a node may start all the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    /// It may, but somebody should look.
    Warning,
    /// It may not.
    Error,
}

impl Rule {
    /// The stable id.
    pub fn id(self) -> &'static str {
        match self {
            Self::Unreadable => "E001",
            Self::Syntax => "E010",
            Self::WrongType => "E011",
            Self::UnknownKey => "E012",
            Self::MissingKey => "E013",
            Self::OutOfRange => "E014",
            Self::NotYet => "E015",
            Self::Timing => "E120",
            Self::Sizes => "E130",
            Self::MayLose => "E135",
            Self::Peers => "E141",
            Self::AdminExposed => "E142",
            Self::PortsCollide => "E143",
            Self::Tls => "E144",
            Self::Start => "E150",
            Self::UnknownVariable => "W001",
            Self::Persistence => "W135",
            Self::Preset => "W136",
            Self::Expires => "W144",
            Self::Open => "W145",
            Self::OneLane => "W131",
            Self::EvenVoters => "W140",
        }
    }

    /// Warnings begin with W, errors with E.
    pub fn level(self) -> Level {
        match self {
            Self::UnknownVariable
            | Self::Persistence
            | Self::Preset
            | Self::Expires
            | Self::Open
            | Self::OneLane
            | Self::EvenVoters => Level::Warning,
            Self::Unreadable
            | Self::Syntax
            | Self::WrongType
            | Self::UnknownKey
            | Self::MissingKey
            | Self::OutOfRange
            | Self::NotYet
            | Self::Timing
            | Self::Sizes
            | Self::MayLose
            | Self::Peers
            | Self::AdminExposed
            | Self::PortsCollide
            | Self::Tls
            | Self::Start => Level::Error,
        }
    }
}

/// Where a problem is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// At a place in the file.
    Line {
        /// The file.
        name: String,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// How many characters are meant, at least 1.
        width: usize,
        /// The line itself.
        text: String,
    },
    /// The file as a whole.
    File {
        /// The file.
        name: String,
    },
    /// An environment variable.
    Variable {
        /// Its name.
        name: String,
    },
    /// A value that a preset sets.
    Preset {
        /// The preset.
        name: String,
    },
}

/// One broken rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Which rule.
    pub rule: Rule,
    /// Where.
    pub place: Place,
    /// What was found and what is allowed.
    pub message: String,
    /// What to do about it, where that is known.
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.rule.level() {
            Level::Warning => "warning",
            Level::Error => "error",
        };
        write!(f, "{level}[{}] ", self.rule.id())?;
        match &self.place {
            Place::Line { name, line, column, width, text } => {
                writeln!(f, "{name}:{line}:{column}: {}", self.message)?;
                writeln!(f, "  {text}")?;
                // Tabs are kept, so that the carets stand below what they mean.
                let indent: String = text
                    .chars()
                    .take(column - 1)
                    .map(|c| if c == '\t' { '\t' } else { ' ' })
                    .collect();
                write!(f, "  {indent}{}", "^".repeat(*width))?;
                if let Some(help) = &self.help {
                    write!(f, " {help}")?;
                }
                return Ok(());
            }
            Place::File { name } => write!(f, "{name}: {}", self.message)?,
            Place::Variable { name } => write!(f, "environment: {name}: {}", self.message)?,
            Place::Preset { name } => write!(f, "preset {name}: {}", self.message)?,
        }
        match &self.help {
            Some(help) => write!(f, "\n  {help}"),
            None => Ok(()),
        }
    }
}

/// All problems of one configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Whether any of them forbids to start.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|problem| problem.rule.level() == Level::Error)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One after the other.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl From<Vec<Problem>> for Problems {
    /// Sorts by place, so that they are read in the order of the file.
    fn from(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| match &problem.place {
            Place::Line { line, column, .. } => (0, *line, *column),
            Place::File { .. } => (1, 0, 0),
            Place::Variable { .. } => (2, 0, 0),
            Place::Preset { .. } => (3, 0, 0),
        });
        Self(problems)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
