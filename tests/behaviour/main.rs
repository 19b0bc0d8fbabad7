//! All end-to-end tests, in modules named by behaviour.

mod corpora;
