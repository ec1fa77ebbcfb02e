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
/// The filter that every assigned value goes through.
pub(super) const ASSIGNED: &str = "__assigned";

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
            return Err(TemplateError::limit(format!("line {line}: an expression of more than {MAX_TAG} parts")));
        }
        at = tag.end;
        if tag.is_block {
            if tag.keyword(source) == "raw" {
                at = after_raw(source, at);
            } else {
                tag.rewrite(source, &mut edits);
                blocks.follow(&tag, source)?;
            }
        }
    }
    Ok(apply(source, edits))
}

/// Position of the next `{{`, `{%` or `{#`.
fn next_tag(source: &str, from: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    (from..bytes.len().saturating_sub(1)).find(|&i| bytes[i] == b'{' && matches!(bytes[i + 1], b'{' | b'%' | b'#'))
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

/// `{{ … }}` or `{% … %}`.
struct Tag {
    is_block: bool,
    /// The first word.
    keyword: Range<usize>,
    /// The `=` of an assignment.
    assign: Option<usize>,
    /// The first `|` outside brackets.
    pipe: Option<usize>,
    /// Where the inside ends.
    inner_end: usize,
    /// Behind the closing sign.
    end: usize,
    weight: usize,
}

impl Tag {
    /// Reads to the closing sign, or to the end if there is none: the engine then says so.
    fn read(source: &str, open: usize) -> Tag {
        let bytes = source.as_bytes();
        let is_block = bytes[open + 1] == b'%';
        let close: &[u8] = if is_block { b"%}" } else { b"}}" };
        let mut tag = Tag {
            is_block,
            keyword: 0..0,
            assign: None,
            pipe: None,
            inner_end: source.len(),
            end: source.len(),
            weight: 0,
        };
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
            at = tag.token(bytes, at, &mut depth);
        }
        tag
    }

    /// Counts the token at `at` and gives the position behind it.
    fn token(&mut self, bytes: &[u8], at: usize, depth: &mut usize) -> usize {
        let skip = |from: usize, test: &dyn Fn(u8) -> bool| {
            bytes[from..].iter().position(|&b| !test(b)).map_or(bytes.len(), |n| from + n)
        };
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || !b.is_ascii();
        match bytes[at] {
            b if b.is_ascii_whitespace() => return skip(at, &|b| b.is_ascii_whitespace()),
            b'"' | b'\'' => return end_of_string(bytes, at),
            b if b.is_ascii_digit() => return skip(at, &is_word),
            b if is_word(b) => {
                let end = skip(at, &is_word);
                if self.keyword.is_empty() {
                    self.keyword = at..end;
                }
                self.weight += 1;
                return end;
            }
            b',' | b':' => return at + 1,
            b'(' | b'[' | b'{' => *depth += 1,
            b')' | b']' | b'}' => {
                *depth = depth.saturating_sub(1);
                return at + 1;
            }
            b'=' if *depth == 0 && self.assign.is_none() => {
                if bytes.get(at + 1) == Some(&b'=') {
                    self.weight += 1;
                    return at + 2;
                }
                self.assign = Some(at);
            }
            b'!' | b'<' | b'>' if bytes.get(at + 1) == Some(&b'=') => {
                self.weight += 1;
                return at + 2;
            }
            b'|' if *depth == 0 && self.pipe.is_none() => self.pipe = Some(at),
            _ => {}
        }
        self.weight += 1;
        at + 1
    }

    fn keyword<'s>(&self, source: &'s str) -> &'s str {
        &source[self.keyword.clone()]
    }

    /// `{% set x %}…{% endset %}`
    fn is_set_block(&self) -> bool {
        self.assign.is_none_or(|assign| self.pipe.is_some_and(|pipe| pipe < assign))
    }

    fn rewrite(&self, source: &str, edits: &mut Vec<(Range<usize>, String)>) {
        match self.keyword(source) {
            "generation" => edits.push((self.keyword.clone(), format!("call {GENERATION}()"))),
            "endgeneration" => edits.push((self.keyword.clone(), "endcall".into())),
            "set" if !self.is_set_block() => {
                let assign = self.assign.unwrap_or(self.inner_end);
                edits.push((assign + 1..assign + 1, "(".into()));
                edits.push((self.inner_end..self.inner_end, format!(")|{ASSIGNED} ")));
            }
            "set" if self.pipe.is_some() => edits.push((self.inner_end..self.inner_end, format!("|{ASSIGNED} "))),
            _ => {}
        }
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
            "set" if tag.is_set_block() => {
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
        for source in ["", "text } %} {", "{{ {'a': {'b': '}}'}} }}", "{# {% generation %} #}", "{% raw %}{% generation %}{% endraw %}"] {
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
        assert_eq!(prepared("{% set x %}{% endset %}"), "{% set x %}{% endset %}");
        assert_eq!(prepared("{% set x | f(a=1) %}"), format!("{{% set x | f(a=1) |{ASSIGNED} %}}"));
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
