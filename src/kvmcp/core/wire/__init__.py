"""What travels, as types: `common` to all revisions, `legacy` only, `modern` only."""
