//! A first look at a template's source, before the engine parses it.
//!
//! The engine's parser, compiler and destructors recurse as deep as a template nests, and chains such as `a.a.a` nest
//! too. So the depth is bounded here, by counting. The same walk rewrites what the engine does not know.

use std::borrow::Cow;
use std::ops::Range;

use super::error::TemplateError;

/// Bytes of a template. The longest ones in use have some 100 kB.
pub(super) const MAX_LENGTH: usize = 1 << 20;
/// Operators and names in one tag; the expression nests no deeper. Literals in long lists do not count.
const MAX_TAG: usize = 1000;
/// Blocks in blocks; every `elif` is one more.
const MAX_BLOCKS: usize = 200;

/// The function that stands in for the `generation` tag.
pub(super) const GENERATION: &str = "__generation";
/// The filter that every value goes through that is assigned to a name.
pub(super) const ASSIGNED: &str = "__assigned";
/// The filter of a value that is assigned to an attribute of a namespace.
pub(super) const ASSIGNED_ATTRIBUTE: &str = "__assigned_attribute";
/// The filter around what `~` joins.
pub(super) const JOINED: &str = "__joined";
/// The filter that stands in for `%` behind a string.
pub(super) const PERCENT: &str = "__percent";

/// Checks the limits and gives the source that the engine gets: without the `generation` tags, which mark the
/// assistant's text for training, and with a check around every assigned value.
///
/// # Errors
/// A template that is too long, or nests too deep.
pub(super) fn prepare(source: &str) -> Result<Cow<'_, str>, TemplateError> {
    if source.len() > MAX_LENGTH {
        return Err(TemplateError::limit(format!("it has more than {MAX_LENGTH} bytes")));
    }
    let mut edits = Vec::new();
    let mut blocks = Blocks::default();
    let mut at = 0;
    while let Some(open) = next_tag(source, at) {
        if source[open..].starts_with("{#") {
            at = end_of(source, open + 2, "#}");
            continue;
        }
        let tag = Tag::read(source, open);
        if tag.weight > MAX_TAG {
            let line = source[..open].matches('\n').count() + 1;
            return Err(TemplateError::limit(format!(
                "line {line}: an expression of more than {MAX_TAG} parts"
            )));
        }
        at = tag.end;
        if tag.is_block && tag.keyword(source) == "raw" {
            at = after_raw(source, at);
            continue;
        }
        tag.rewrite(source, &mut edits);
        if tag.is_block {
            blocks.follow(&tag, source)?;
        }
    }
    Ok(apply(source, edits))
}

/// Position of the next `{{`, `{%` or `{#`.
fn next_tag(source: &str, from: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    (from..bytes.len().saturating_sub(1))
        .find(|&i| bytes[i] == b'{' && matches!(bytes[i + 1], b'{' | b'%' | b'#'))
}

/// Position behind `what`, or the end.
fn end_of(source: &str, from: usize, what: &str) -> usize {
    source[from..].find(what).map_or(source.len(), |found| from + found + what.len())
}

/// Position behind `{% endraw %}`, or the end.
fn after_raw(source: &str, mut from: usize) -> usize {
    while let Some(found) = source[from..].find("{%") {
        let inside = &source[from + found + 2..];
        let word = inside.strip_prefix(['-', '+']).unwrap_or(inside).trim_start();
        from += found + 2;
        if let Some(rest) = word.strip_prefix("endraw") {
            let rest = rest.trim_start();
            if rest.strip_prefix(['-', '+']).unwrap_or(rest).starts_with("%}") {
                return end_of(source, from, "%}");
            }
        }
    }
    source.len()
}

/// Puts the edits, which are in order, into the source.
fn apply(source: &str, edits: Vec<(Range<usize>, String)>) -> Cow<'_, str> {
    if edits.is_empty() {
        return Cow::Borrowed(source);
    }
    let mut out = String::with_capacity(source.len() + edits.len() * 16);
    let mut at = 0;
    for (range, text) in edits {
        out.push_str(&source[at..range.start]);
        out.push_str(&text);
        at = range.end;
    }
    out.push_str(&source[at..]);
    Cow::Owned(out)
}

/// What a token is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    Number,
    String,
    Open,
    Close,
    /// `.`, which binds a name to what is before it.
    Dot,
    /// `|`
    Pipe,
    /// A single `=`.
    Assign,
    /// `%`
    Percent,
    /// `~`
    Tilde,
    Comma,
    Operator,
}

/// A token of an expression.
struct Token {
    kind: Kind,
    range: Range<usize>,
    /// Brackets around it.
    depth: usize,
}

/// `{{ … }}` or `{% … %}`.
struct Tag {
    is_block: bool,
    tokens: Vec<Token>,
    /// Where the inside ends.
    inner_end: usize,
    /// Behind the closing sign.
    end: usize,
    /// Tokens that may make the expression deeper.
    weight: usize,
}

impl Tag {
    /// Reads to the closing sign, or to the end if there is none: the engine then says so.
    fn read(source: &str, open: usize) -> Tag {
        let bytes = source.as_bytes();
        let is_block = bytes[open + 1] == b'%';
        let close: &[u8] = if is_block { b"%}" } else { b"}}" };
        let mut tag =
            Tag { is_block, tokens: Vec::new(), inner_end: bytes.len(), end: bytes.len(), weight: 0 };
        let (mut at, mut depth) = (open + 2, 0usize);
        if matches!(bytes.get(at), Some(b'-' | b'+')) {
            at += 1;
        }
        while at < bytes.len() {
            let marked = matches!(bytes[at], b'-' | b'+') && bytes[at + 1..].starts_with(close);
            if depth == 0 && (marked || bytes[at..].starts_with(close)) {
                tag.inner_end = at;
                tag.end = at + usize::from(marked) + close.len();
                break;
            }
            if bytes[at].is_ascii_whitespace() {
                at += 1;
                continue;
            }
            let (kind, end) = token(bytes, at);
            depth = depth.saturating_sub(usize::from(kind == Kind::Close));
            tag.tokens.push(Token { kind, range: at..end, depth });
            depth += usize::from(kind == Kind::Open);
            tag.weight +=
                usize::from(!matches!(kind, Kind::Number | Kind::String | Kind::Close | Kind::Comma));
            at = end;
        }
        tag
    }

    /// The first word.
    fn keyword<'s>(&self, source: &'s str) -> &'s str {
        self.tokens.first().map_or("", |first| &source[first.range.clone()])
    }

    /// The first token of a kind outside brackets.
    fn first(&self, kind: Kind) -> Option<&Token> {
        self.tokens.iter().find(|token| token.kind == kind && token.depth == 0)
    }

    /// The `=` of `{% set x = 1 %}`; none for `{% set x %}…{% endset %}`, which may have a filter.
    fn assignment(&self) -> Option<&Token> {
        let pipe = self.first(Kind::Pipe).map_or(usize::MAX, |pipe| pipe.range.start);
        self.first(Kind::Assign).filter(|assign| assign.range.start < pipe)
    }

    fn rewrite(&self, source: &str, edits: &mut Vec<(Range<usize>, String)>) {
        let keyword = self.tokens.first().filter(|_| self.is_block);
        let word = keyword.map_or("", |_| self.keyword(source));
        let mut here = Vec::new();
        let mut put = |range: Range<usize>, text: String| here.push((range, text));
        self.formats(&mut put);
        self.joins(source, &mut put);
        let (assignment, inner_end) = (self.assignment(), self.inner_end..self.inner_end);
        match (word, assignment) {
            ("set", Some(assign)) => {
                let filter = assigned(self.tokens.iter().take_while(|t| t.range != assign.range));
                put(assign.range.end..assign.range.end, "(".into());
                put(inner_end, format!(")|{filter} "));
            }
            ("set", None) if self.first(Kind::Pipe).is_some() => {
                let filter = assigned(self.tokens.iter().take_while(|t| t.kind != Kind::Pipe));
                put(inner_end, format!("|{filter} "));
            }
            _ => {}
        }
        if let ("generation" | "endgeneration", Some(keyword)) = (word, keyword) {
            let text = if word == "generation" { format!("call {GENERATION}()") } else { "endcall".into() };
            put(keyword.range.clone(), text);
        }
        here.sort_by_key(|(range, _)| range.start);
        edits.extend(here);
    }

    /// `'text' % operand` becomes `'text'|filter(operand)`.
    fn formats(&self, put: &mut impl FnMut(Range<usize>, String)) {
        for (i, pair) in self.tokens.windows(2).enumerate() {
            let [text, percent] = pair else { continue };
            if text.kind != Kind::String || percent.kind != Kind::Percent {
                continue;
            }
            let operand = &self.tokens[i + 2..];
            let length = operand_length(operand, percent.depth);
            let Some(last) = operand[..length].last() else { continue };
            put(percent.range.clone(), format!("|{PERCENT}("));
            put(last.range.end..last.range.end, ")".into());
        }
    }
}

impl Tag {
    /// `a ~ b` becomes `(a)|filter ~ (b)|filter`, for what `~` makes text of.
    fn joins(&self, source: &str, put: &mut impl FnMut(Range<usize>, String)) {
        // Without a block's keyword.
        let tokens = self.tokens.get(usize::from(self.is_block)..).unwrap_or_default();
        for (i, _) in tokens.iter().enumerate().filter(|(_, token)| token.kind == Kind::Tilde) {
            let depth = tokens[i].depth;
            let ends =
                |token: &&Token| token.depth < depth || token.depth == depth && ends_operand(token, source);
            let before = tokens[..i].iter().rev().take_while(|token| !ends(token)).count();
            let after = tokens[i + 1..].iter().take_while(|token| !ends(token)).count();
            // What is between two of them is the second one's left side.
            let last = tokens.get(i + 1 + after).is_none_or(|next| next.kind != Kind::Tilde);
            let sides = [Some(i - before..i), last.then_some(i + 1..i + 1 + after)];
            for side in sides.into_iter().flatten().filter(|side| !side.is_empty()) {
                let (start, end) = (tokens[side.start].range.start, tokens[side.end - 1].range.end);
                put(start..start, "(".into());
                put(end..end, format!(")|{JOINED}"));
            }
        }
    }
}

/// True for what binds less than `~`, and for `~` itself; not for brackets.
fn ends_operand(token: &Token, source: &str) -> bool {
    match &source[token.range.clone()] {
        "and" | "or" | "not" | "in" | "if" | "else" => true,
        "==" | "!=" | "<" | ">" | "<=" | ">=" => true,
        _ => matches!(token.kind, Kind::Assign | Kind::Comma | Kind::Tilde),
    }
}

/// The filter for what is assigned to this target: to an attribute, that is to a namespace, or to a name.
fn assigned<'t>(mut target: impl Iterator<Item = &'t Token>) -> &'static str {
    if target.any(|token| token.kind == Kind::Dot) { ASSIGNED_ATTRIBUTE } else { ASSIGNED }
}

/// How many tokens belong to the operand that begins here: a value with what is bound to it by dots, brackets and
/// filters.
fn operand_length(tokens: &[Token], depth: usize) -> usize {
    let mut bound = true;
    for (i, token) in tokens.iter().enumerate() {
        if token.depth > depth {
            continue;
        }
        let goes_on = match token.kind {
            // A value, or the name behind a dot or a pipe.
            Kind::Word | Kind::Number | Kind::String => std::mem::take(&mut bound),
            Kind::Open => {
                bound = false;
                true
            }
            Kind::Close => token.depth == depth && i > 0 && tokens[..i].iter().any(|t| t.kind == Kind::Open),
            Kind::Dot | Kind::Pipe => {
                bound = true;
                true
            }
            Kind::Operator => i == 0,
            Kind::Assign | Kind::Percent | Kind::Tilde | Kind::Comma => false,
        };
        if !goes_on {
            return i;
        }
    }
    tokens.len()
}

/// The token at `at`, which is no white space, and the position behind it.
fn token(bytes: &[u8], at: usize) -> (Kind, usize) {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || !b.is_ascii();
    let word_end = || bytes[at..].iter().position(|b| !is_word(b)).map_or(bytes.len(), |n| at + n);
    match bytes[at] {
        b'"' | b'\'' => (Kind::String, end_of_string(bytes, at)),
        b if b.is_ascii_digit() => (Kind::Number, word_end()),
        b if is_word(&b) => (Kind::Word, word_end()),
        b'(' | b'[' | b'{' => (Kind::Open, at + 1),
        b')' | b']' | b'}' => (Kind::Close, at + 1),
        b',' | b':' => (Kind::Comma, at + 1),
        b'.' => (Kind::Dot, at + 1),
        b'|' => (Kind::Pipe, at + 1),
        b'%' => (Kind::Percent, at + 1),
        b'~' => (Kind::Tilde, at + 1),
        b'=' | b'!' | b'<' | b'>' if bytes.get(at + 1) == Some(&b'=') => (Kind::Operator, at + 2),
        b'=' => (Kind::Assign, at + 1),
        _ => (Kind::Operator, at + 1),
    }
}

/// Position behind the string that begins at `at`.
fn end_of_string(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != bytes[at] {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

/// Blocks that are open, each with what it adds to the depth.
#[derive(Default)]
struct Blocks {
    open: Vec<usize>,
    depth: usize,
}

impl Blocks {
    fn follow(&mut self, tag: &Tag, source: &str) -> Result<(), TemplateError> {
        match tag.keyword(source) {
            "for" | "if" | "macro" | "call" | "filter" | "block" | "with" | "autoescape" | "generation" => {
                self.open.push(1);
                self.depth += 1;
            }
            "set" if tag.assignment().is_none() => {
                self.open.push(1);
                self.depth += 1;
            }
            "elif" => {
                if let Some(last) = self.open.last_mut() {
                    *last += 1;
                    self.depth += 1;
                }
            }
            keyword if keyword.starts_with("end") => self.depth -= self.open.pop().unwrap_or(0),
            _ => {}
        }
        if self.depth > MAX_BLOCKS {
            return Err(TemplateError::limit(format!("more than {MAX_BLOCKS} blocks inside each other")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(source: &str) -> String {
        prepare(source).expect("within the limits").into_owned()
    }

    #[test]
    fn a_plain_template_stays_as_it_is() {
        for source in [
            "",
            "text } %} {",
            "{{ {'a': {'b': '}}'}} }}",
            "{# {% generation %} #}",
            "{% raw %}{% generation %}{% endraw %}",
        ] {
            assert_eq!(prepared(source), source);
        }
    }

    #[test]
    fn generation_becomes_a_call() {
        let found = prepared("{%- generation -%}a{%+ endgeneration %}{{ 'generation' }}");
        assert_eq!(found, format!("{{%- call {GENERATION}() -%}}a{{%+ endcall %}}{{{{ 'generation' }}}}"));
    }

    #[test]
    fn assigned_values_are_checked() {
        let checked = |inside: &str| format!("{{% set x =({inside})|{ASSIGNED} %}}");
        assert_eq!(prepared("{% set x = 1 -%}"), checked(" 1 ").replace(" %}", " -%}"));
        assert_eq!(prepared("{% set x = a == '%}' %}"), checked(" a == '%}' "));
        assert_eq!(prepared("{% set ns.a = 1 %}"), format!("{{% set ns.a =( 1 )|{ASSIGNED_ATTRIBUTE} %}}"));
        assert_eq!(prepared("{% set x %}{% endset %}"), "{% set x %}{% endset %}");
        assert_eq!(prepared("{% set x | f(a=1) %}"), format!("{{% set x | f(a=1) |{ASSIGNED} %}}"));
    }

    #[test]
    fn percent_behind_a_string_becomes_a_filter() {
        let cases = [
            ("{{ '%s' % x }}", "{{ '%s' |__percent( x) }}"),
            ("{{ '%s' % (a, b[1]) + 'c' }}", "{{ '%s' |__percent( (a, b[1])) + 'c' }}"),
            ("{{ f('%s' % a.b(1)|upper, 2) % 3 }}", "{{ f('%s' |__percent( a.b(1)|upper), 2) % 3 }}"),
            ("{{ '%d' % -1 if x else y }}", "{{ '%d' |__percent( -1) if x else y }}"),
            ("{{ ['%s' % a] }}", "{{ ['%s' |__percent( a)] }}"),
            ("{% if '%s' % a == 'b' %}", "{% if '%s' |__percent( a) == 'b' %}"),
        ];
        for (source, expected) in cases {
            // What was there stays; only the sign goes.
            assert_eq!(prepared(source), expected, "{source}");
        }
    }

    #[test]
    fn what_is_joined_goes_through_a_filter() {
        let cases = [
            ("{{ a ~ b+1 ~ f(c ~ d) }}", "{{ (a)|F ~ (b+1)|F ~ (f((c)|F ~ (d)|F))|F }}"),
            ("{% elif call ~ set %}", "{% elif (call)|F ~ (set)|F %}"),
            ("{% if not a ~ b == c %}", "{% if not (a)|F ~ (b)|F == c %}"),
            ("{{ f(x=a~b, y=[c][0]~'~') if z }}", "{{ f(x=(a)|F~(b)|F, y=([c][0])|F~('~')|F) if z }}"),
            ("{{ '%s' % a ~ b }}", "{{ ('%s' |__percent( a))|F ~ (b)|F }}"),
        ];
        for (source, expected) in cases {
            assert_eq!(prepared(source), expected.replace("|F", &format!("|{JOINED}")), "{source}");
        }
        assert_eq!(prepared("{% set x=a~b%}"), "{% set x=((a)|__joined~(b)|__joined)|__assigned %}");
    }

    #[test]
    fn depth_is_bounded() {
        let refused = |source: String| prepare(&source).expect_err("refused").to_string();
        for chain in ["-", "(", "[", "not ", "1+", "a.", "a|b|", "a if a else ", "x.0."] {
            assert!(refused(format!("{{{{ {}1 }}}}", chain.repeat(50_000))).contains("parts"), "{chain}");
        }
        assert!(refused("{% if a %}".repeat(1000)).contains("blocks"));
        assert!(refused(format!("{{% if a %}}{}", "{% elif a %}".repeat(1000))).contains("blocks"));
        assert!(refused(" ".repeat(MAX_LENGTH + 1)).contains("bytes"));
        let list = format!("{{{{ [{}] }}}}", "'a', ".repeat(10_000));
        assert_eq!(prepared(&list), list);
        let blocks = "{% if a %}{% elif b %}{% endif %}{% set a %}{% endset %}".repeat(1000);
        assert_eq!(prepared(&blocks), blocks);
    }
}
