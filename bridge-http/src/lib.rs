//! shop-bridge-http
