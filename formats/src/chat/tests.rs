use chrono::NaiveDate;
use serde_json::json;

use super::*;

fn rendered(template: &str) -> Result<String, TemplateError> {
    let variables = json!({
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": " Grüße <b>\n"}],
        "tools": null,
        "documents": null,
        "add_generation_prompt": true,
        "bos_token": "<s>",
    });
    let now = NaiveDate::from_ymd_opt(2024, 7, 6).and_then(|day| day.and_hms_opt(9, 5, 3)).expect("a time");
    render_at(template, variables.as_object().expect("an object"), now)
}

#[track_caller]
fn check(template: &str, expected: &str) {
    assert_eq!(rendered(template).as_deref(), Ok(expected), "{template}");
}

#[track_caller]
fn refused(template: &str) -> String {
    match rendered(template) {
        Ok(text) => panic!("{template:.80} gives {text:.80}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_common_form() {
    let template = "{{ bos_token }}{% for message in messages %}\n    \
                    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'].strip() + '<|im_end|>\\n' -}}\n\
                    {% endfor %}\n{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\n";
    check(
        template,
        "<s><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nGrüße <b><|im_end|>\n<|im_start|>assistant\n",
    );
}

#[test]
fn what_transformers_adds() {
    check(
        "{% for m in messages %}{% generation %}{{ m.role }}{{ loop.last }}{%- endgeneration %} {% endfor %}",
        "systemFalse userTrue ",
    );
    check("{{ strftime_now('%d %B %Y') }}", "06 July 2024");
    check(
        "{{ tools is none }} {{ documents is none }} {{ tools }} {{ pad_token is defined }}",
        "True True None False",
    );
    assert!(refused("{{ raise_exception('no ' ~ 'system role\\n!') }}").ends_with("no system role\n!"));
    assert_eq!(rendered("{{ raise_exception('a') }}"), Err(TemplateError::Refused { message: "a".into() }));
}

#[test]
fn to_json_is_json_dumps() {
    check("{{ messages[1]|tojson }}", r#"{"role": "user", "content": " Grüße <b>\n"}"#);
    check("{{ ['ü😀\\x7f\"\\\\']|tojson(ensure_ascii=true) }}", r#"["\u00fc\ud83d\ude00\u007f\"\\"]"#);
    check(
        "{{ {'b': [1, 2.0, none], 'a': {}}|tojson(indent=2) }}",
        "{\n  \"b\": [\n    1,\n    2.0,\n    null\n  ],\n  \"a\": {}\n}",
    );
    check(
        "{{ {'b': [1, true], 'a': (1e20,)}|tojson(separators=(',', ':'), sort_keys=true) }}",
        r#"{"a":[1e+20],"b":[1,true]}"#,
    );
    check(
        "{{ {2: 3, none: 4, true: 1e-7}|tojson }} {{ [1]|tojson(indent='\t') }}",
        "{\"2\": 3, \"null\": 4, \"true\": 1e-07} [\n\t1\n]",
    );
    assert!(refused("{{ nothing|tojson }}").contains("not JSON"));
    assert!(refused("{{ [1]|tojson(indents=2) }}").contains("indents"));
}

#[test]
fn values_as_python_writes_them() {
    check("{{ [1, 2.0, 'a\\'', none, true, {'k': ('x',)}] }}", "[1, 2.0, \"a'\", None, True, {'k': ('x',)}]");
    check(
        "{{ 'a' ~ 1 ~ none ~ [1, 'b'] }} {{ 1e16 }} {{ 7 // 2 }} {{ -7 % 3 }} {{ 4 / 2 }}",
        "a1None[1, 'b'] 1e+16 3 2 2.0",
    );
    check(
        "{{ '%s/%03d' % ('a', 3) }} {{ '%s' % none }} {{ '{:>4}|{}'.format('x', 2) }}",
        "a/003 None    x|2",
    );
    check(
        "{{ [1, 'a']|join('-') }} {{ 'x'|int }} {{ ' 7 '|int }} {{ '2.5'|float }} {{ 'ff'|int(0, 16) }}",
        "1-a 0 7 2.5 255",
    );
}

#[test]
fn methods_of_python() {
    check(
        "{{ 'a b  c'.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.rsplit(None, 1) }}",
        "['a', 'b', 'c'] ['a', 'b,c'] ['a b', 'c']",
    );
    check(
        "{{ 'xxaxx'.strip('x') }}{{ ' a'.lstrip() }}{{ 'ab'.startswith(('x', 'a')) }}{{ 'äbc'.find('c') }}",
        "aaTrue2",
    );
    check(
        "{{ \"they're here\".title() }} {{ 'aBC'.capitalize() }} {{ 'a-b'.partition('-') }}",
        "They'Re Here Abc ('a', '-', 'b')",
    );
    check(
        "{{ 'aaa'.replace('a', 'b', 2) }} {{ 'x'.center(4, '*') }} {{ '-5'.zfill(4) }} {{ 'a\\r\\nb'.splitlines() }}",
        "bba *x** -005 ['a', 'b']",
    );
    check(
        "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ {'a': 1}.get('b', 2) }}{{ messages[::-1][0].role }}",
        "a12user",
    );
    assert!(refused("{{ messages.append(1) }}").contains("append"));
}

#[test]
fn jinja_itself() {
    check(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if loop.last %}{% break %}{% endif %}{% endfor %}{{ ns.n }}",
        "2",
    );
    check(
        "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller('c') }}{% endmacro %}{% call(x) m(1) %}{{ x }}{% endcall %}",
        "12c",
    );
    check(
        "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='role')|list }}{{ {'b': 1, 'a': 2}|dictsort }}",
        "['user'][('a', 2), ('b', 1)]",
    );
    check(
        "{{ none is iterable }}{{ 'a' is sequence }}{{ {} is mapping }}{{ 1 is string }}{{ [2, 1, 2]|unique|first }}",
        "FalseTrueTrueFalse2",
    );
    check("{{ 'a\\n\\nb'|indent(2) }}|{{ 'a\\nb'|indent('>', true) }}", "a\n\n  b|>a\n>b");
}

/// Templates that would take all memory, all time or all of the stack. Each ends in an error.
#[test]
fn hostile_templates() {
    let grow = |round: &str| {
        format!(
            "{{% set ns = namespace(s='x', l=[1]) %}}{{% for i in range(60) %}}{{% set {round} %}}{{% endfor %}}{{{{ ns.s ~ ns.l }}}}"
        )
    };
    let nested = |end: &str| {
        format!(
            "{{% macro d(x, y, n) %}}{{% if n %}}{{{{ d([x, x], [y, y], n - 1) }}}}{{% else %}}{{{{ {end} }}}}{{% endif %}}{{% endmacro %}}{{{{ d([1], [1], 40) }}}}"
        )
    };
    let mut templates = vec![
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}".to_string(),
        "{{ 'x'.replace('', 'y' * 100000000) }}".into(),
        "{{ ('x' * 1000000)|replace('x', 'y' * 10000) }}".into(),
        "{{ messages|tojson(indent=4000000000) }}".into(),
        "{{ '%1000000000d'|format(1) }}{{ '%1000000000d' % 1 }}".into(),
        "{{ '%1000000000d' % 1 }}".into(),
        "{{ '{:1000000000}'.format(1) }}".into(),
        "{{ ('{0}' * 100000).format('x' * 100000) }}".into(),
        "{{ ('%s' * 10000)|format(*(['x' * 100000] * 10000)) }}".into(),
        "{{ 'x'.center(1000000000) }}".into(),
        "{{ 'x'|center(1000000000) }}".into(),
        "{{ 'a\\nb'|indent(1000000000) }}".into(),
        "{{ 'x' * 1000000000 }}".into(),
        "{{ [['x' * 100000] * 100000] * 100000 ~ '' }}".into(),
        "{{ (['x' * 100000] * 100000)|join('y' * 100000) }}".into(),
        "{% set s = 'x' * 6000000 %}{% for i in range(20000) %}{{ s.count('yy') }}{% endfor %}".into(),
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}".into(),
        "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}".into(),
        "x".repeat(2 << 20),
        "{% if a %}".repeat(50_000),
    ];
    for round in [
        "ns.s = ns.s ~ ns.s",
        "ns.s = ns.s.replace('x', 'xxxx')",
        "ns.l = ns.l + ns.l",
        "ns.l = [ns.l, ns.l]",
    ] {
        templates.push(grow(round));
    }
    for end in ["x ~ ''", "'%s' % [x]", "x|tojson"] {
        templates.push(nested(end));
    }
    for own in ["ns", "[ns]", "{'a': ns}.values()", "cycler(ns)", "namespace(b=ns)", "[[ns]]|map('first')"] {
        templates.push(format!("{{% set ns = namespace() %}}{{% set ns.a = {own} %}}{{{{ ns ~ ns.a }}}}"));
    }
    for chain in ["-", "1 + ", "(", "[", "not ", "1 ~ ", "1 if 1 else ", "'%s' % "] {
        templates.push(format!("{{{{ {}1 }}}}", chain.repeat(50_000)));
    }
    for chain in [".a", "|string", "[0]", "()", " is defined"] {
        templates.push(format!("{{{{ a{} }}}}", chain.repeat(50_000)));
    }
    for template in &templates {
        refused(template);
    }
}

/// What costs no fuel is given up after a time.
#[test]
fn a_template_that_takes_too_long() {
    let nested = "{% macro d(x, y, n) %}{% if n %}{{ d([x, x], [y, y], n - 1) }}{% else %}{{ x == y }}{% endif %}{% endmacro %}";
    let error = rendered(&format!("{nested}{{{{ d([1], [1], 34) }}}}"));
    assert_eq!(error, Err(TemplateError::limit("it takes too long")));
}
