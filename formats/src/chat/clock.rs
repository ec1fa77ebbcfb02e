//! `strftime_now`: today's date as Python writes it.

use chrono::NaiveDateTime;
use chrono::format::{Item, StrftimeItems};

/// `datetime.strftime` in the C locale, of a time without a zone. What it does not know is left unchanged, as in
/// glibc.
pub(super) fn strftime(time: NaiveDateTime, format: &str) -> String {
    let mut out = String::new();
    let mut rest = format;
    while let Some(percent) = rest.find('%') {
        out.push_str(&rest[..percent]);
        rest = &rest[percent..];
        let length = directive(rest);
        let (directive, behind) = rest.split_at(length);
        out.push_str(&written(time, directive));
        rest = behind;
    }
    out + rest
}

/// Length of the directive that `text` begins with: a percent sign, flags, perhaps `E` or `O`, a letter.
fn directive(text: &str) -> usize {
    let letter = |c: &(usize, char)| !matches!(c.1, '-' | '_' | '0' | '^' | '#' | 'E' | 'O');
    text.char_indices().skip(1).find(letter).map_or(text.len(), |(at, c)| at + c.len_utf8())
}

fn written(time: NaiveDateTime, directive: &str) -> String {
    let letter = directive.chars().next_back().unwrap_or_default();
    match letter {
        'f' => return time.format("%6f").to_string(),
        // A time without a zone.
        'z' | 'Z' => return String::new(),
        'c' => return time.format("%a %b %e %H:%M:%S %Y").to_string(),
        'x' => return time.format("%m/%d/%y").to_string(),
        // chrono's own, and those that stand for themselves alone.
        '+' | 'L' | 'Q' | 'N' | '.' | ':' | '1'..='9' => return directive.into(),
        _ => {}
    }
    let flag = directive.chars().rev().skip(1).find(|flag| matches!(flag, '-' | '_' | '0'));
    let plain: String = ['%'].into_iter().chain(flag).chain([letter]).collect();
    let items: Vec<Item<'_>> = StrftimeItems::new(&plain).collect();
    if items.contains(&Item::Error) {
        return directive.into();
    }
    let text = time.format_with_items(items.iter()).to_string();
    if directive.contains('^') { text.to_uppercase() } else { text }
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;

    use super::*;

    #[test]
    fn as_python() {
        let time = NaiveDate::from_ymd_opt(2024, 7, 6)
            .and_then(|d| d.and_hms_micro_opt(9, 5, 3, 42))
            .expect("a time");
        let cases = [
            ("%Y-%m-%d", "2024-07-06"),
            ("%d %B %Y, %A", "06 July 2024, Saturday"),
            ("%-d %b %y %j", "6 Jul 24 188"),
            ("%H:%M:%S.%f %p %I", "09:05:03.000042 AM 09"),
            (
                "%c|%x|%X|%D|%F|%T|%R",
                "Sat Jul  6 09:05:03 2024|07/06/24|09:05:03|07/06/24|2024-07-06|09:05:03|09:05",
            ),
            ("%Z%z%%", "%"),
            ("%e %^a %U %W %w %u %V %G", " 6 SAT 26 27 6 6 27 2024"),
            ("%Q %Ey %é 100%", "%Q 24 %é 100%"),
        ];
        for (format, text) in cases {
            assert_eq!(strftime(time, format), text, "{format}");
        }
    }
}
