use proptest::prelude::*;

use super::{Reader, Value};

/// Reads one whole text; members and elements of the outermost container are visited.
fn accepts(text: &str) -> bool {
    let mut reader = Reader::new(text);
    reader.skip_space();
    let read = match reader.peek() {
        Some(b'{') => reader.object(|reader, _| reader.value().map(|_| ())),
        Some(b'[') => reader.array(|reader| reader.value().map(|_| ())),
        _ => reader.value().map(|_| ()),
    };
    read.and_then(|()| reader.end()).is_ok()
}

/// The outermost container skipped instead of visited must be judged the same.
fn skips(text: &str) -> bool {
    let mut reader = Reader::new(text);
    reader.value().and_then(|_| reader.end()).is_ok()
}

fn serde_accepts(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text).is_ok()
        // serde_json's own value refuses numbers beyond f64, which JSON allows.
        || serde_json::from_str::<serde_json::Value>(text)
            .is_err_and(|error| error.to_string().starts_with("number out of range"))
}

#[track_caller]
fn check(text: &str, wanted: bool) {
    assert_eq!(accepts(text), wanted, "visiting {text}");
    assert_eq!(skips(text), wanted, "skipping {text}");
}

#[test]
fn it_takes_json_and_nothing_else() {
    for text in [
        "{}",
        "[]",
        " { } ",
        "[[],{}]",
        "\"\"",
        "0",
        "-0",
        "-0.0e+1",
        "1e400",
        "true",
        "null",
        r#"{"a":[1,{"b":null}],"c":"\u00e9\ud83c\udf88\/"}"#,
        "\t[\n1 , 2\r]",
        "[\"\u{7f}\"]",
    ] {
        check(text, true);
    }
    for text in [
        "",
        " ",
        "{",
        "}",
        "[1,]",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\" 1}",
        "[1 2]",
        "01",
        "-",
        "1.",
        ".5",
        "+1",
        "1e",
        "NaN",
        "nul",
        "tru e",
        "'a'",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\n\"",
        "\"\u{0}\"",
        r#""\ud83c""#,
        r#""\ud83c\u0041""#,
        r#""\udf88""#,
        "{}{}",
        "[1]]",
        "{\"a\":}",
        "\"abc",
        "[}",
        "{]",
        "[{]}",
        "{\"a\":[}]",
        "//x\n1",
        "\u{feff}{}",
    ] {
        check(text, false);
    }
}

#[test]
fn nesting_is_limited_to_64_levels_with_the_event_and_its_data() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(skips(&nested(62)));
    assert!(!skips(&nested(63)));
    assert!(!skips(&"[".repeat(1_000_000)));
    assert!(!skips(&"{\"a\":".repeat(1_000_000)));
    let mixed = "{\"a\":[".repeat(31) + "1" + &"]}".repeat(31);
    assert!(skips(&mixed));
}

#[test]
fn what_others_will_read_may_be_deeper_and_hold_half_a_surrogate_pair() {
    for text in [r#"["\ud83c"]"#, r#"{"\udf88":1}"#, r#"["\ud83c\u0041"]"#] {
        assert!(!skips(text), "{text}");
        assert_eq!(Reader::new(text).skip_leniently(), Ok(0..text.len()), "{text}");
    }
    assert!(Reader::new(r#"["\ud83"]"#).skip_leniently().is_err());
    let mut reader = Reader::new(r#"["\ud83c"] ["\ud83c"]"#);
    assert!(reader.skip_leniently().is_ok());
    assert!(reader.value().is_err(), "strict again");
}

#[test]
fn strings_are_borrowed_unless_escaped_and_decoded_right() {
    let string = |text: &'static str| match Reader::new(text).value() {
        Ok(Value::String(string)) => string.read().into_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(string(r#""plain é 🎈""#), "plain é 🎈");
    assert_eq!(
        string(r#""\"\\\/\b\f\n\r\t\u0000\u00e9\ud83c\udf88x""#),
        "\"\\/\u{8}\u{c}\n\r\t\0é🎈x"
    );
}

#[test]
fn a_fault_is_placed_by_line_and_column() {
    let text = "{\"a\": 1,\n  \"b\" 2}";
    let broken = Reader::new(text).value().unwrap_err();
    assert_eq!(broken.place(text), (2, 7));
}

/// Texts that are nearly JSON.
fn nearly_json() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"b\\n\"",
        "\"",
        "\\",
        "\\u12",
        "1",
        "-",
        "0",
        ".5",
        "e3",
        "true",
        "null",
        " ",
        "\n",
        "é",
        "\u{1}",
        "\\ud800",
        "\"\\ud83c\\udf88\"",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// `serde_json` is the reference for what is JSON.
    #[test]
    fn it_agrees_with_serde_json(text in nearly_json()) {
        prop_assert_eq!(accepts(&text), serde_accepts(&text), "visiting {}", text);
        prop_assert_eq!(skips(&text), serde_accepts(&text), "skipping {}", text);
    }

    #[test]
    fn containers_close_in_the_order_they_opened(
        objects in prop::collection::vec(any::<bool>(), 1..300),
        wrong in any::<prop::sample::Index>(),
    ) {
        let open = objects.iter().map(|object| if *object { "{\"a\":" } else { "[" });
        let mut close: Vec<_> =
            objects.iter().rev().map(|object| if *object { "}" } else { "]" }).collect();
        let open = open.collect::<String>();
        let text = format!("{open}1{}", close.concat());
        prop_assert_eq!(Reader::new(&text).skip_leniently(), Ok(0..text.len()));
        let wrong = wrong.index(close.len());
        close[wrong] = if close[wrong] == "}" { "]" } else { "}" };
        let text = format!("{open}1{}", close.concat());
        prop_assert!(Reader::new(&text).skip_leniently().is_err());
    }

    #[test]
    fn no_text_panics(text in ".*") {
        prop_assert_eq!(accepts(&text), serde_accepts(&text));
    }
}
