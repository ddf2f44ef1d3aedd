"""Operations on stacks beyond Pulumi's own: generated secrets, healing, test stacks, and a look at what is left."""
