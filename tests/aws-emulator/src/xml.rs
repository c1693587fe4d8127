//! Answers as trees of elements, and their text. Never parses.

use std::borrow::Cow;

/// An element of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Text(Cow<'static, str>, String),
    Group(Cow<'static, str>, Vec<Node>),
}

/// An element with text.
pub(crate) fn text(name: &'static str, value: impl Into<String>) -> Node {
    Node::Text(Cow::Borrowed(name), value.into())
}

/// An element with anything that prints.
#[allow(clippy::needless_pass_by_value, reason = "so that callers need not borrow what they make")]
pub(crate) fn show(name: &'static str, value: impl ToString) -> Node {
    Node::Text(Cow::Borrowed(name), value.to_string())
}

/// An element with elements.
pub(crate) fn group(name: &'static str, members: Vec<Node>) -> Node {
    Node::Group(Cow::Borrowed(name), members)
}

/// EC2's lists: `<name><item>..</item></name>`.
pub(crate) fn items(name: &'static str, all: impl IntoIterator<Item = Vec<Node>>) -> Node {
    group(name, all.into_iter().map(|members| group("item", members)).collect())
}

/// EC2's lists of plain values.
pub(crate) fn item_texts<S: Into<String>>(name: &'static str, all: impl IntoIterator<Item = S>) -> Node {
    group(name, all.into_iter().map(|value| text("item", value)).collect())
}

/// The lists of the other query services: `<name><member>..</member></name>`.
pub(crate) fn members(name: &'static str, all: impl IntoIterator<Item = Vec<Node>>) -> Node {
    group(name, all.into_iter().map(|members| group("member", members)).collect())
}

/// Their lists of plain values.
pub(crate) fn member_texts<S: Into<String>>(name: &'static str, all: impl IntoIterator<Item = S>) -> Node {
    group(name, all.into_iter().map(|value| text("member", value)).collect())
}

/// `<name><value>..</value></name>`, as EC2 answers attributes.
#[allow(clippy::needless_pass_by_value, reason = "so that callers need not borrow what they make")]
pub(crate) fn value(name: &'static str, it: impl ToString) -> Node {
    group(name, vec![show("value", it)])
}

/// EC2's answer of actions that have nothing to say.
pub(crate) fn done() -> Vec<Node> {
    vec![text("return", "true")]
}

/// The text of `root`, with the declaration that AWS sends.
pub(crate) fn document(root: &str, namespace: &str, nodes: &[Node]) -> String {
    let mut out = String::with_capacity(1024);
    out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<");
    out.push_str(root);
    if !namespace.is_empty() {
        out.push_str(" xmlns=\"");
        out.push_str(namespace);
        out.push('"');
    }
    out.push('>');
    nodes.iter().for_each(|node| write(node, &mut out));
    out.push_str("</");
    out.push_str(root);
    out.push('>');
    out
}

fn write(node: &Node, out: &mut String) {
    let (Node::Text(name, _) | Node::Group(name, _)) = node;
    out.push('<');
    out.push_str(name);
    match node {
        Node::Group(_, members) if members.is_empty() => return out.push_str("/>"),
        Node::Group(_, members) => {
            out.push('>');
            members.iter().for_each(|member| write(member, out));
        }
        Node::Text(_, value) => {
            out.push('>');
            escape(value, out);
        }
    }
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

fn escape(value: &str, out: &mut String) {
    for character in value.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            plain => out.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_nest_and_text_is_escaped() {
        let nodes = [items("aSet", [vec![text("b", "<&>\"")]]), group("none", vec![]), value("v", true)];
        let want = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<R xmlns=\"n\"><aSet><item><b>&lt;&amp;&gt;&quot;</b>\
                    </item></aSet><none/><v><value>true</value></v></R>";
        assert_eq!(document("R", "n", &nodes), want);
    }
}
