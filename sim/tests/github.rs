//! What the GitHub port promises: the production client over a real socket, against the model. The model's own answers are
//! held to GitHub's published schemas.

#[path = "github/bed.rs"]
mod bed;
#[path = "github/limits.rs"]
mod limits;
#[path = "github/nonsense.rs"]
mod nonsense;
#[path = "github/promises.rs"]
mod promises;
#[path = "github/schema.rs"]
mod schema;
#[path = "github/tokens.rs"]
mod tokens;
