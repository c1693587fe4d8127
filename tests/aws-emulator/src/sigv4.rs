//! Signature version 4: the canonical form of a request, its signature, and the check of one. Both ways are written
//! here from the specification, so that a client under test and the emulator share no code.

mod canonical;
mod sign;
mod verify;

pub use sign::{Credentials, presign, sign};
pub(crate) use verify::{Key, verify};

use aws_lc_rs::{digest, hmac};

/// An HTTP request as far as signatures and dispatch look at it. Names of headers are in lower case.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET` or `POST`.
    pub method: String,
    /// The path, still percent-coded.
    pub path: String,
    /// The query string without `?`, still percent-coded.
    pub query: String,
    /// Headers in their order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header, whose name is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// What a key is good for: a day, a region, a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) date: String,
    pub(crate) region: String,
    pub(crate) service: String,
}

impl Scope {
    fn text(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.date, self.region, self.service)
    }

    fn parse(text: &str) -> Option<Self> {
        let [date, region, service, "aws4_request"] = text.split('/').collect::<Vec<_>>()[..] else { return None };
        Some(Self { date: date.to_owned(), region: region.to_owned(), service: service.to_owned() })
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hmac_sha256(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// The signature of a canonical request under a secret key.
fn signature(secret: &str, scope: &Scope, moment: &str, canonical: &str) -> String {
    let text = format!("AWS4-HMAC-SHA256\n{moment}\n{}\n{}", scope.text(), sha256_hex(canonical.as_bytes()));
    let start = hmac_sha256(format!("AWS4{secret}").as_bytes(), &scope.date);
    let key = [&scope.region, &scope.service, "aws4_request"].iter().fold(start, |key, part| hmac_sha256(&key, part));
    hex::encode(hmac_sha256(&key, &text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_of_the_specification() {
        // The worked example of the public documentation: GET / of iam with Action=ListUsers.
        let canonical = "GET\n/\nAction=ListUsers&Version=2010-05-08\ncontent-type:application/x-www-form-urlencoded; \
                         charset=utf-8\nhost:iam.amazonaws.com\nx-amz-date:20150830T123600Z\n\ncontent-type;host;x-amz-date\n\
                         e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let scope = Scope { date: "20150830".into(), region: "us-east-1".into(), service: "iam".into() };
        let got = signature("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", &scope, "20150830T123600Z", canonical);
        assert_eq!(got, "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
    }
}
