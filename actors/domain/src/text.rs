//! Texts of people: what may stand in a name or a reason, and how a foreign text is shown in a sentence.
//!
//! Owns the characters. Must not be asked when a message is read from a log: what is in a log was let in
//! by the rules of its day, and stays.

use std::fmt;

/// Most characters of a foreign text that a sentence repeats: enough to recognise it.
pub const QUOTED_LENGTH_MAX: usize = 64;

/// Why a text is not one for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidText {
    /// None, or more characters than allowed.
    #[error("must have 1 to {max} characters, not {length}")]
    Length {
        /// The most allowed.
        max: usize,
        /// What was given.
        length: usize,
    },
    /// Only spaces and what takes no ink.
    #[error("must have something visible in it")]
    Blank,
    /// A character that breaks lines, commands terminals, or is none.
    #[error("must not contain {}, {what}", Code(*character))]
    Forbidden {
        /// The character.
        character: char,
        /// What it is.
        what: &'static str,
    },
    /// A change of direction that would go on behind the text.
    #[error("must close what {} opens, or the text behind it is turned around as well", Code(*.0))]
    Unclosed(char),
    /// The end of a change of direction that the text did not begin.
    #[error("must not close with {} what it has not opened", Code(*.0))]
    Unopened(char),
}

/// A character by its number, `U+200B`.
struct Code(char);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "U+{:04X}", u32::from(self.0))
    }
}

/// Checks a text for people: 1 to `max` characters, at least one of them visible, none that would harm
/// what is shown around it.
pub fn check(text: &str, max: usize) -> Result<(), InvalidText> {
    let length = text.chars().count();
    if length == 0 || length > max {
        return Err(InvalidText::Length { max, length });
    }
    for character in text.chars() {
        if let Some(what) = forbidden(character) {
            return Err(InvalidText::Forbidden { character, what });
        }
    }
    check_directions(text)?;
    if text.chars().all(is_blank) { Err(InvalidText::Blank) } else { Ok(()) }
}

/// Embeddings and isolates have to be closed in the order in which they were opened (Unicode Standard
/// Annex 9, BD8 to BD11). The end of an isolate closes the embeddings in it.
fn check_directions(text: &str) -> Result<(), InvalidText> {
    let mut open = Vec::new();
    let is_isolate = |character: &char| matches!(character, '\u{2066}'..='\u{2068}');
    for character in text.chars() {
        match character {
            '\u{202a}' | '\u{202b}' | '\u{2066}'..='\u{2068}' => open.push(character),
            '\u{202c}' if open.pop().is_none_or(|opened| is_isolate(&opened)) => {
                return Err(InvalidText::Unopened(character));
            }
            '\u{2069}' => {
                let isolate = open.iter().rposition(is_isolate).ok_or(InvalidText::Unopened(character))?;
                open.truncate(isolate);
            }
            _ => {}
        }
    }
    open.first().map_or(Ok(()), |opened| Err(InvalidText::Unclosed(*opened)))
}

/// What a character is that no text for people may contain.
fn forbidden(character: char) -> Option<&'static str> {
    match character {
        '\u{2028}' | '\u{2029}' => Some("which ends a line"),
        '\u{202d}' | '\u{202e}' => Some("which turns the text behind it around"),
        '\u{fdd0}'..='\u{fdef}' => Some("which is no character"),
        _ if u32::from(character) & 0xfffe == 0xfffe => Some("which is no character"),
        _ if character.is_control() => Some("a control character"),
        _ => None,
    }
}

/// Whether a character leaves no ink: white space, what Unicode says may be ignored when it cannot be
/// shown (`Default_Ignorable_Code_Point` of Unicode 17), and the few others that are blank by themselves.
pub fn is_blank(character: char) -> bool {
    character.is_whitespace()
        || matches!(character,
            '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{13430}'..='\u{13442}'
            | '\u{16fe4}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d159}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// A foreign text as a sentence shows it: in quotes, cut to a length, with numbers in place of what cannot
/// be seen or would harm.
pub fn quoted(text: &str) -> String {
    let mut shown = String::from('"');
    for character in text.chars().take(QUOTED_LENGTH_MAX) {
        if character != ' ' && (is_blank(character) || forbidden(character).is_some()) {
            shown += &format!("<{}>", Code(character));
        } else {
            shown.push(character);
        }
    }
    if text.chars().nth(QUOTED_LENGTH_MAX).is_some() {
        shown.push('…');
    }
    shown + "\""
}

/// One character as a sentence shows it.
pub(crate) fn quoted_character(character: char) -> String {
    if character != ' ' && (is_blank(character) || forbidden(character).is_some()) {
        Code(character).to_string()
    } else {
        format!("'{character}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 200;

    #[test]
    fn a_name_may_be_of_any_script_and_of_joined_emoji() {
        let family = "👨\u{200d}👩\u{200d}👧";
        let scotland = "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}";
        let closed = ["\u{2068}עברית\u{2069}", "a \u{2067}b\u{2066}c\u{2069}\u{2069}", "\u{202b}אב\u{202c}!"];
        for good in ["a", "사과", "\"<a>\\", " a ", "❤\u{fe0f}", "می\u{200c}خواهم", "e\u{301}", family, scotland]
        {
            assert_eq!(check(good, MAX), Ok(()), "{good:?}");
        }
        for good in closed {
            assert_eq!(check(good, MAX), Ok(()), "{good:?}");
        }
        assert_eq!(check(&"ü".repeat(MAX), MAX), Ok(()));
        assert_eq!(check(&"ü".repeat(MAX + 1), MAX), Err(InvalidText::Length { max: MAX, length: MAX + 1 }));
    }

    #[test]
    fn a_name_in_which_nothing_can_be_seen_is_none() {
        let blank = " \u{a0}\u{ad}\u{34f}\u{61c}\u{115f}\u{1160}\u{1680}\u{17b4}\u{180e}\u{2000}\u{200a}\u{200b}\u{200d}\
                     \u{200e}\u{200f}\u{202f}\u{205f}\u{2060}\u{2064}\u{206a}\u{2800}\u{3000}\u{3164}\u{fe0f}\u{feff}\u{ffa0}\
                     \u{fff9}\u{1d173}\u{e0001}\u{e0100}";
        for character in blank.chars() {
            assert_eq!(check(&character.to_string(), MAX), Err(InvalidText::Blank), "{character:?}");
        }
        assert_eq!(check(blank, MAX), Err(InvalidText::Blank));
        assert_eq!(check("\u{2068}\u{2069}", MAX), Err(InvalidText::Blank));
    }

    #[test]
    fn what_would_harm_the_text_around_a_name_is_refused() {
        for harm in
            ['\0', '\n', '\u{7f}', '\u{85}', '\u{2028}', '\u{2029}', '\u{202d}', '\u{202e}', '\u{fdd0}', '\u{fdef}']
        {
            assert!(matches!(check(&format!("a{harm}b"), MAX), Err(InvalidText::Forbidden { .. })), "{harm:?}");
        }
        for harm in ['\u{fffe}', '\u{ffff}', '\u{1fffe}', '\u{10ffff}'] {
            assert!(matches!(check(&format!("a{harm}"), MAX), Err(InvalidText::Forbidden { .. })), "{harm:?}");
        }
        for open in ["a\u{2066}b", "\u{2067}a", "a\u{2068}", "\u{202a}a", "\u{202b}a", "\u{2068}\u{2068}a\u{2069}"] {
            assert!(matches!(check(open, MAX), Err(InvalidText::Unclosed(_))), "{open:?}");
        }
        for close in ["a\u{2069}", "a\u{202c}", "\u{2068}a\u{202c}\u{2069}", "\u{2068}a\u{2069}\u{2069}"] {
            assert!(matches!(check(close, MAX), Err(InvalidText::Unopened(_))), "{close:?}");
        }
    }

    #[test]
    fn a_mistake_is_said_in_words_and_numbers() {
        for (text, says) in [
            ("a\u{7}", "must not contain U+0007, a control character"),
            ("a\u{2028}", "must not contain U+2028, which ends a line"),
            ("\u{2067}a", "must close what U+2067 opens, or the text behind it is turned around as well"),
            ("a\u{2069}", "must not close with U+2069 what it has not opened"),
            ("\u{3000}", "must have something visible in it"),
            ("", "must have 1 to 200 characters, not 0"),
        ] {
            assert_eq!(check(text, MAX).unwrap_err().to_string(), says, "{text:?}");
        }
    }

    #[test]
    fn a_foreign_text_is_shown_in_quotes_and_cut() {
        assert_eq!(quoted("apple"), "\"apple\"");
        assert_eq!(quoted("a b\0\u{200b}\u{202e}"), "\"a b<U+0000><U+200B><U+202E>\"");
        assert_eq!(quoted(&"x".repeat(64)), format!("\"{}\"", "x".repeat(64)));
        assert_eq!(quoted(&"ü".repeat(9000)), format!("\"{}…\"", "ü".repeat(64)));
        assert_eq!(quoted_character('.'), "'.'");
        assert_eq!(quoted_character('\u{200b}'), "U+200B");
    }
}
