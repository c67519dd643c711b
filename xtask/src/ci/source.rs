//! Reading Rust source just well enough to tell code from comments and literals.
//!
//! The scanners of this tool look for words; a word in a comment or a string is not a finding.
//! Invariant: the result has the lines of the input, so that line numbers stay true.

/// The code of a file: whatever stands in comments and in string or character literals becomes
/// blanks.
pub(super) fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => block_end(&chars, at),
            '"' => string_end(&chars, at),
            'r' if !follows_word(&chars, at) => raw_string_end(&chars, at).unwrap_or(at),
            '\'' => char_end(&chars, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            let blank = |c: &char| if *c == '\n' { '\n' } else { ' ' };
            code.extend(chars[at..end].iter().map(blank));
            at = end;
        }
    }
    code
}

/// Where in `code` the identifier `word` stands, as byte offsets.
pub(super) fn identifiers<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = code[..*at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// The line, counted from one, of a byte offset.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_end(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |length| at + length)
}

fn block_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `None` if this `r` opens no raw string, as in `r#type`.
fn raw_string_end(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |at: usize| {
        chars[at] == '"'
            && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    let end = (open + 1..chars.len()).find(|at| closes(*at));
    Some(end.map_or(chars.len(), |at| at + 1 + hashes))
}

/// `None` if this quote begins a lifetime.
fn char_end(chars: &[char], start: usize) -> Option<usize> {
    match (chars.get(start + 1)?, chars.get(start + 2)?) {
        // After the backslash comes one character that is no end, not even if it is a quote.
        ('\\', _) => {
            let tail = chars.get(start + 3..)?;
            Some(start + 3 + tail.iter().position(|c| *c == '\'')? + 1)
        }
        (_, '\'') => Some(start + 3),
        _ => None,
    }
}

/// Whether the letter at `at` continues a word; the prefixes of `br"` and `cr"` do not count.
fn follows_word(chars: &[char], at: usize) -> bool {
    let word = |at: Option<usize>| at.is_some_and(|at| is_word(chars[at]));
    let before = at.checked_sub(1);
    match before.map(|at| chars[at]) {
        Some('b' | 'c') => word(at.checked_sub(2)),
        _ => word(before),
    }
}

#[cfg(test)]
mod tests {
    use super::{code_of, identifiers, line_of};

    #[test]
    fn comments_and_literals_become_blanks_and_lines_stay() {
        let cases = [
            ("a // b\nc", "a     \nc"),
            ("a /* x /* y */\n z */ b", "a             \n      b"),
            ("f(\"x\\\"y\", 1)", "f(      , 1)"),
            ("r#\"a\"b\"# + br\"q\" + 1", "         + b     + 1"),
            ("'x' '\\'' '\\u{1}' 'a: 'static", "                 'a: 'static"),
            ("r#type bar\"s\"", "r#type bar   "),
            ("\"never closed", "             "),
        ];
        for (text, code) in cases {
            assert_eq!(code_of(text), code, "{text}");
        }
    }

    #[test]
    fn identifiers_are_whole_words() {
        let found: Vec<_> = identifiers("core core_x xcore core!", "core").collect();
        assert_eq!(found, [0, 18]);
        assert_eq!(line_of("a\nb\nc", 4), 3);
    }
}
