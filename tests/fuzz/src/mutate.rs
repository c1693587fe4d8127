//! Inputs from a corpus: each entry as it is, then mutants without end. Pure.

/// Longest input.
const MOST_BYTES: usize = 64 << 10;
/// Changes made to one input.
const MOST_CHANGES: usize = 6;
/// Bytes at which decoders change their mind.
const TELLING: [u8; 18] =
    [0, 1, 0x7f, 0x80, 0xff, b'"', b'\\', b'{', b'}', b'[', b']', b',', b':', b'-', b'\n', b' ', b'0', b'\''];
/// Pieces of the grammars that our decoders read.
const PIECES: [&[u8]; 14] = [
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"9223372036854775808",
    b"\"\\ud800\"",
    b"\xf0\x9f\x98\x80",
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":",
    b"&a [*a,*a,*a]",
    b"\x00\x00\x00\x00",
    b"~1~0/-",
];

/// See the module.
#[derive(Clone, Debug)]
pub struct Mutator {
    corpus: Vec<Vec<u8>>,
    given: usize,
    state: u64,
}

impl Mutator {
    /// Over `corpus`; an empty one is taken for one empty entry.
    #[must_use]
    pub fn new(corpus: &[&[u8]]) -> Self {
        let mut corpus: Vec<_> = corpus.iter().map(|entry| entry.to_vec()).collect();
        if corpus.is_empty() {
            corpus.push(Vec::new());
        }
        Self { corpus, given: 0, state: 0x9e37_79b9_7f4a_7c15 }
    }

    /// The next input.
    #[allow(clippy::should_implement_trait, reason = "inputs never end, so there is nothing optional about the next")]
    pub fn next(&mut self) -> Vec<u8> {
        if let Some(entry) = self.corpus.get(self.given) {
            self.given += 1;
            return entry.clone();
        }
        let choice = self.below(self.corpus.len());
        let mut input = self.corpus[choice].clone();
        for _ in 0..=self.below(MOST_CHANGES) {
            self.change(&mut input);
        }
        input.truncate(MOST_BYTES);
        input
    }

    /// A number below `bound`, 0 if that is 0 (xorshift: quality does not matter, repetition does).
    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from((self.state >> 11) % bound).unwrap_or(0)
    }

    /// A part of an input of `length` bytes.
    fn part(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        start..start + self.below((length - start).min(64) + 1)
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        match self.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = TELLING[self.below(TELLING.len())],
            2 => input.insert(at, TELLING[self.below(TELLING.len())]),
            3 => drop(input.drain(self.part(input.len()))),
            4 => {
                let copied = input[self.part(input.len())].to_vec();
                input.splice(at..at, copied);
            }
            5 => {
                let other = self.below(self.corpus.len());
                let part = self.part(self.corpus[other].len());
                let piece = self.corpus[other][part].to_vec();
                input.splice(at..at, piece);
            }
            6 => {
                let piece = PIECES[self.below(PIECES.len())];
                input.splice(at..at, piece.iter().copied());
            }
            7 => input.truncate(at),
            _ => input.push(TELLING[self.below(TELLING.len())]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_corpus_comes_first_then_mutants_the_same_every_time() {
        let inputs = || {
            let mut mutator = Mutator::new(&[b"first", b"second"]);
            (0..500).map(|_| mutator.next()).collect::<Vec<_>>()
        };
        let first = inputs();
        assert_eq!((&first[0][..], &first[1][..]), (&b"first"[..], &b"second"[..]));
        assert_eq!(first, inputs());
        assert!(first.iter().collect::<BTreeSet<_>>().len() > 400, "mutants differ");
    }

    #[test]
    fn inputs_are_bounded_and_nothing_is_needed_to_begin() {
        let long = vec![b'x'; 2 * MOST_BYTES];
        let mut mutator = Mutator::new(&[&long]);
        mutator.next();
        assert!((0..100).all(|_| mutator.next().len() <= MOST_BYTES));
        let mut mutator = Mutator::new(&[]);
        assert!((0..100).any(|_| !mutator.next().is_empty()));
    }
}
