pub mod check;
pub mod hash_password;
mod mask;
pub mod problems;
pub mod schema;
pub mod source;
