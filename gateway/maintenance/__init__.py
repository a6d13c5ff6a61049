"""Work on whole collections: reconcile, re-embed, count, snapshots."""
