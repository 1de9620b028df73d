//! Tencent Cloud.
