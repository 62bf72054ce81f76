//! shop-local
