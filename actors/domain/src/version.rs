//! Versions: how often an entity has changed for those who look at it, and what a request may demand of that.
//!
//! **Guarantee.** From the fourth logic version on each entity has a number that goes up by exactly one with each
//! message that changes what callers see of it, and with nothing else: not with a refusal, a repetition, or a change
//! to what is there already. It is part of the state, and so a function of the log. What is made then begins with 1.
//! What was there before begins to be counted at the upgrade: it has 0, and its first change makes that 1.
//!
//! Callers see it as an entity tag (RFC 9110, section 8.8.3). A request that demands one, or demands another one, says
//! so in `If-Match` and `If-None-Match`: its [`Precondition`]. That of a write goes into the log with it, and is judged
//! where the write stands there: so of many writes that demand the same tag, one is done.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::problem::{Code, Problem};

/// Most entity tags of one header. Who names one of ours names one or two.
const TAGS_MAX: usize = 100;

/// How often what callers see of an entity has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(u64);

impl Version {
    /// Of what has not changed since versions are counted.
    pub const ZERO: Self = Self(0);

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Whether nothing has changed; then it is not written into states.
    pub const fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// The version that has this entity tag, quotes included, if it is one of ours.
    pub fn of_tag(tag: &str) -> Option<Self> {
        Self::of_opaque(tag.strip_prefix('"')?.strip_suffix('"')?)
    }

    /// Only the one way in which a number is written, because tags are compared letter by letter.
    fn of_opaque(opaque: &str) -> Option<Self> {
        let is_written_so = |number: &u64| number.to_string() == opaque;
        opaque.parse().ok().filter(is_written_so).map(Self)
    }
}

/// As an entity tag.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// How an entity is when a request comes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Current {
    /// There is none.
    Absent,
    /// It has no entity tag: a list, or anything before the fourth logic version.
    Untagged,
    /// It has this version.
    At(Version),
}

/// What a request demands of the entity that it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Precondition {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    if_match: Option<Tags>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    if_none_match: Option<Tags>,
}

/// The entity tags of a header, as far as they can be ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Tags {
    /// `*`: whatever there is.
    Any,
    /// Those of these versions.
    Of(BTreeSet<Version>),
}

/// What comes of a precondition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request goes on.
    Holds,
    /// The entity is not one that `If-Match` names.
    Fails,
    /// The entity is one that `If-None-Match` names: whoever reads has it already.
    IsKnown,
}

impl Precondition {
    /// Reads all lines of both headers; none when there are no lines.
    pub fn read(if_match: &[String], if_none_match: &[String]) -> Result<Option<Self>, Problem> {
        // `If-Match` compares strongly, which a weak tag never does; `If-None-Match` weakly.
        let (if_match, if_none_match) = (tags(IF_MATCH, if_match, false)?, tags(IF_NONE_MATCH, if_none_match, true)?);
        Ok((if_match.is_some() || if_none_match.is_some()).then_some(Self { if_match, if_none_match }))
    }

    /// What comes of it, in the order of RFC 9110, section 13.2.2.
    pub fn judge(&self, current: Current) -> Verdict {
        let includes = |tags: &Tags| match (tags, current) {
            (_, Current::Absent) | (Tags::Of(_), Current::Untagged) => false,
            (Tags::Any, Current::Untagged | Current::At(_)) => true,
            (Tags::Of(versions), Current::At(version)) => versions.contains(&version),
        };
        if !self.if_match.as_ref().is_none_or(includes) {
            Verdict::Fails
        } else if self.if_none_match.as_ref().is_some_and(includes) {
            Verdict::IsKnown
        } else {
            Verdict::Holds
        }
    }
}

const IF_MATCH: &str = "If-Match";
const IF_NONE_MATCH: &str = "If-None-Match";

/// What a header names, all its lines together: RFC 9110, sections 5.2 and 13.1.
fn tags(header: &str, lines: &[String], takes_weak: bool) -> Result<Option<Tags>, Problem> {
    const BLANK: [char; 2] = [' ', '\t'];
    if lines.is_empty() {
        return Ok(None);
    }
    let malformed = |why: &str| Problem::new(Code::MALFORMED, format!("the header {header} {why}"));
    let no_tags = || malformed("must be * or a list of entity tags, each in double quotes, as in \"7\"");
    let all = lines.join(",");
    if all.trim_matches(BLANK) == "*" {
        return Ok(Some(Tags::Any));
    }
    let (mut versions, mut count, mut rest) = (BTreeSet::new(), 0, all.as_str());
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            break;
        }
        let (is_weak, tag) = rest.strip_prefix("W/").map_or((false, rest), |tag| (true, tag));
        let (opaque, behind) = tag.strip_prefix('"').and_then(|tag| tag.split_once('"')).ok_or_else(no_tags)?;
        rest = behind.trim_start_matches(BLANK);
        if opaque.chars().any(|c| c <= ' ' || c == '\x7f') || !(rest.is_empty() || rest.starts_with(',')) {
            return Err(no_tags());
        }
        count += 1;
        versions.extend(Version::of_opaque(opaque).filter(|_| takes_weak || !is_weak));
    }
    match count {
        0 => Err(no_tags()),
        1..=TAGS_MAX => Ok(Some(Tags::Of(versions))),
        _ => Err(malformed(&format!("may name {TAGS_MAX} entity tags, this one names {count}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(if_match: &[&str], if_none_match: &[&str]) -> Result<Option<Precondition>, Problem> {
        let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        Precondition::read(&lines(if_match), &lines(if_none_match))
    }

    /// Of something that is not there, that has no tag, and that has version 7.
    fn verdicts(if_match: &[&str], if_none_match: &[&str]) -> [Verdict; 3] {
        let precondition = read(if_match, if_none_match).unwrap().unwrap();
        [Current::Absent, Current::Untagged, Current::At(Version(7))].map(|current| precondition.judge(current))
    }

    #[test]
    fn a_tag_is_a_number_in_quotes_written_in_one_way() {
        assert_eq!(Version(7).to_string(), "\"7\"");
        assert_eq!(Version::of_tag("\"7\""), Some(Version(7)));
        for other in ["7", "\"07\"", "\"+7\"", "\"\"", "\"", "W/\"7\"", "\"7 \"", "\"18446744073709551616\""] {
            assert_eq!(Version::of_tag(other), None, "{other}");
        }
    }

    #[test]
    fn a_match_wants_one_of_its_tags_and_compares_strongly() {
        use Verdict::{Fails, Holds};
        let matching: [&[&str]; 6] = [
            &["\"7\""],
            &["\"6\", \"7\""],
            &["\"6\"", "\"7\""],
            &[",\"a,b\"\t,, \"7\","],
            &["\"\"", " \"7\" "],
            &["\"schl\u{fc}ssel\",\"7\""],
        ];
        for lines in matching {
            assert_eq!(verdicts(lines, &[]), [Fails, Fails, Holds], "{lines:?}");
        }
        for lines in [&["\"6\""][..], &["W/\"7\""], &["\"07\""], &["\"nonsense\""], &["\"7,\""]] {
            assert_eq!(verdicts(lines, &[]), [Fails; 3], "{lines:?}");
        }
        assert_eq!(verdicts(&["*"], &[]), [Fails, Holds, Holds]);
        assert_eq!(verdicts(&[" * "], &[]), [Fails, Holds, Holds]);
    }

    #[test]
    fn a_mismatch_wants_none_of_its_tags_and_compares_weakly() {
        use Verdict::{Fails, Holds, IsKnown};
        for lines in [&["\"7\""][..], &["W/\"7\""], &["\"6\"", "W/\"8\", \"7\""]] {
            assert_eq!(verdicts(&[], lines), [Holds, Holds, IsKnown], "{lines:?}");
        }
        assert_eq!(verdicts(&[], &["\"6\""]), [Holds; 3]);
        assert_eq!(verdicts(&[], &["*"]), [Holds, IsKnown, IsKnown]);
        assert_eq!(verdicts(&["\"7\""], &["\"7\""]), [Fails, Fails, IsKnown]);
        assert_eq!(verdicts(&["\"6\""], &["\"7\""]), [Fails; 3]);
    }

    #[test]
    fn what_names_no_tags_is_malformed_and_says_which_header() {
        assert_eq!(read(&[], &[]), Ok(None));
        let many = vec!["\"7\""; TAGS_MAX + 1].join(",");
        let bad: [&[&str]; 17] = [
            &["nonsense"],
            &["7"],
            &[""],
            &[" , "],
            &["\"7"],
            &["7\""],
            &["'7'"],
            &["w/\"7\""],
            &["W/7"],
            &["W/"],
            &["\"a b\""],
            &["\"a\" \"b\""],
            &["\"a\"b"],
            &["\"a\u{7f}\""],
            &["*, \"7\""],
            &["*", "*"],
            &[&many],
        ];
        for lines in bad {
            for (problem, header) in [(read(lines, &[]), IF_MATCH), (read(&["*"], lines), IF_NONE_MATCH)] {
                let problem = problem.expect_err(&format!("{lines:?}"));
                assert_eq!(problem.code, Code::MALFORMED, "{lines:?}");
                assert!(problem.detail.starts_with(&format!("the header {header} m")), "{}", problem.detail);
            }
        }
        assert!(read(&[&many[4..]], &[]).is_ok());
    }
}
