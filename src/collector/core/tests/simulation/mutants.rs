//! Cores that are wrong on purpose: each has to be caught.
//!
//! The core itself stays as it is: a mutant is made at its edge, where an event is withheld, invented or bent on its way
//! in, or an effect on its way out. What comes of it is what a core would do that has that fault inside. Also bent are the
//! pure functions beside the core, identities and the error table, and what the driver does about doubts.

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    AckBeforeReply,
    LeaseIgnored,
    RenewalCountedWithoutReply,
    RenewalCountedFromItsReply,
    NothingRenewed,
    UnmetWriteConcernTakenAsDone,
    UnmetWriteConcernTakenAsRefusal,
    DuplicateOfAnotherIndexTakenAsDone,
    DuplicateUnderItsOwnIdTakenAsRefusal,
    LookUpTakenAsDone,
    BusyTakenAsRefusal,
    UnknownTakenAsRefusal,
    UnknownNeverNarrowedDown,
    OutageTakenAsDone,
    OutageForgotten,
    RefusalOfTheOneBefore,
    ProvenFromTheStart,
    TerminatedBeforeItsLetter,
    StopGivesBackWhatWasSent,
    StopWithoutFlush,
    BudgetNotGivenBack,
    IdentityWithoutTime,
    IdentityWithoutPayload,
    IdentityOfTheDelivery,
    NoDoubtAfterAGap,
    LostTailUnnoticed,
    LostTailUnnoticedOnceRefilled,
    PreviousTargetIgnored,
    UnreplicatedTakenAsAbsent,
    AcknowledgesTheNextToo,
    GateIgnored,
    GateNeverOpens,
    TurnTakenForAnOpenGate,
    CodeOfAllTakenAsRefusal,
    RefusalInCompanyTakenAsRefusal,
    DuplicatesTakenAtTheirWord,
}

/// All of them.
pub const ALL: [Mutant; 36] = {
    use Mutant::*;
    [
        AckBeforeReply,
        LeaseIgnored,
        RenewalCountedWithoutReply,
        RenewalCountedFromItsReply,
        NothingRenewed,
        UnmetWriteConcernTakenAsDone,
        UnmetWriteConcernTakenAsRefusal,
        DuplicateOfAnotherIndexTakenAsDone,
        DuplicateUnderItsOwnIdTakenAsRefusal,
        LookUpTakenAsDone,
        BusyTakenAsRefusal,
        UnknownTakenAsRefusal,
        UnknownNeverNarrowedDown,
        OutageTakenAsDone,
        OutageForgotten,
        RefusalOfTheOneBefore,
        ProvenFromTheStart,
        TerminatedBeforeItsLetter,
        StopGivesBackWhatWasSent,
        StopWithoutFlush,
        BudgetNotGivenBack,
        IdentityWithoutTime,
        IdentityWithoutPayload,
        IdentityOfTheDelivery,
        NoDoubtAfterAGap,
        LostTailUnnoticed,
        LostTailUnnoticedOnceRefilled,
        PreviousTargetIgnored,
        UnreplicatedTakenAsAbsent,
        AcknowledgesTheNextToo,
        GateIgnored,
        GateNeverOpens,
        TurnTakenForAnOpenGate,
        CodeOfAllTakenAsRefusal,
        RefusalInCompanyTakenAsRefusal,
        DuplicatesTakenAtTheirWord,
    ]
};
