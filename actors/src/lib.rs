//! shop-actors
