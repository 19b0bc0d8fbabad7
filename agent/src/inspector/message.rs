//! A captured request or response, as the history stores it.

/// A request or a response, in the form of HTTP/1.1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StoredMessage {
    /// First line and header fields; empty if they are not known.
    pub head: Vec<u8>,
    /// Beginning of the body.
    pub body: Vec<u8>,
    /// Size of the whole body, in bytes.
    pub body_bytes: u64,
    /// `true` if `body` is the whole body.
    pub is_whole: bool,
    /// `true` if secrets were removed from the body.
    pub is_redacted: bool,
}

impl StoredMessage {
    /// Returns the parts of the head. Bytes that are not UTF-8 are replaced.
    pub(crate) fn parts(&self) -> HeadParts {
        let head = String::from_utf8_lossy(&self.head);
        let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
        let start_line = lines.next().unwrap_or_default().to_owned();
        let fields = lines.map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or((line, ""));
            (name.to_owned(), value.to_owned())
        });
        HeadParts {
            start_line,
            fields: fields.collect(),
        }
    }

    /// Returns the host of a request with its port, if its field `Host` names this host.
    pub(crate) fn authority(&self, host: &str) -> String {
        let parts = self.parts();
        let port = parts.field("host").and_then(|value| {
            let port = value.strip_prefix(host)?.strip_prefix(':')?;
            port.bytes()
                .all(|byte| byte.is_ascii_digit())
                .then_some(port)
        });
        match port {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// Returns a request in the form of HTTP/1.1, with the length of the body that was kept.
    pub(crate) fn to_http(&self) -> Vec<u8> {
        let mut lines = self.head.split_inclusive(|byte| *byte == b'\n');
        let is_computed = |line: &&[u8]| {
            let line = line.to_ascii_lowercase();
            line.starts_with(b"content-length:") || line.starts_with(b"transfer-encoding:")
        };
        let mut http: Vec<u8> = lines
            .by_ref()
            .filter(|line| !is_computed(line))
            .flatten()
            .copied()
            .collect();
        if !self.body.is_empty() {
            http.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        http.extend_from_slice(b"\r\n");
        http.extend_from_slice(&self.body);
        http
    }
}

/// Parts of the head of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HeadParts {
    pub start_line: String,
    /// Names and values of the header fields, in order.
    pub fields: Vec<(String, String)>,
}

impl HeadParts {
    /// Returns the first value of a header field.
    pub(crate) fn field(&self, wanted: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        let field = fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        field.map(|(_, value)| value.as_str())
    }

    /// Returns the target of a request.
    pub(crate) fn target(&self) -> Option<&str> {
        self.start_line.split(' ').nth(1)
    }
}
