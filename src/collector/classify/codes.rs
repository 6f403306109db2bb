//! The server's codes by what they mean, each with its name in the server's own list of them (`error_codes.yml`) or, where it has
//! none there, with what it says. Data only; read by the table.

/// Codes with which a server says that it cannot write now: of a command, and of single documents.
pub const TRANSIENT: [i32; 55] = [
    6,          // HostUnreachable
    7,          // HostNotFound, as one server says of another
    46,         // LockBusy
    50,         // MaxTimeMSExpired
    64,         // WriteConcernTimeout: the write is applied
    70,         // ShardNotFound: a router's view of its shards is old
    82,         // NoProgressMade: a router gave up on what moves about
    89,         // NetworkTimeout
    90,         // CallbackCanceled
    91,         // ShutdownInProgress
    112,        // WriteConflict
    145,        // PooledConnectionsDropped
    189,        // PrimarySteppedDown
    262,        // ExceededTimeLimit
    9001,       // SocketException
    10058,      // LegacyNotPrimary
    10107,      // NotWritablePrimary
    11600,      // InterruptedAtShutdown
    11602,      // InterruptedDueToReplStateChange
    13435,      // NotPrimaryNoSecondaryOk
    13436,      // NotPrimaryOrSecondary
    14031,      // OutOfDiskSpace
    11601,      // Interrupted: somebody killed the operation
    133,        // FailedToSatisfyReadPreference
    134,        // ReadConcernMajorityNotAvailableYet
    24,         // LockTimeout
    63,         // StaleShardVersion, of older servers
    146,        // ExceededMemoryLimit: of the server's work, which is not the document's fault
    150,        // StaleEpoch
    202,        // NetworkInterfaceExceededTimeLimit
    237,        // CursorKilled
    249,        // StaleDbVersion
    279,        // ClientDisconnect
    290,        // TransactionExceededLifetimeLimitSeconds
    317,        // ConnectionPoolExpired
    355,        // InterruptedDueToStorageChange
    365,        // TemporarilyUnavailable
    384,        // ConnectionError
    391,        // ReauthenticationRequired: the next connection does it
    402,        // ResourceExhausted
    406,        // MigrationBlockingOperationCoordinatorCleaningUp
    407,        // PooledConnectionAcquisitionExceededTimeLimit
    409,        // TimeseriesBucketCompressionFailed: the server takes another bucket next time
    412,        // UpdatesStillPending
    433,        // AdmissionQueueOverflow
    449,        // RateLimitExceeded
    450,        // PooledConnectionAcquisitionRejected
    453,        // InterruptedDueToReshardingCriticalSection
    462,        // IngressRequestRateLimitExceeded
    13388,      // StaleConfig
    16500,      // Azure Cosmos DB: the request rate is too large
    46841,      // ClientMarkedKilled
    50915,      // BackupCursorOpenConflictWithCheckpoint
    91331,      // RetriableRemoteCommandFailure
    10_045_600, // InterruptedDueToFCVChange
];

/// Codes with which a server refuses until a person changes something. 2 and 14 mean it of commands only.
pub const OPERATOR: [i32; 18] = [
    13,    // Unauthorized
    18,    // AuthenticationFailed
    20,    // IllegalOperation
    26,    // NamespaceNotFound
    73,    // InvalidNamespace
    79,    // UnknownReplWriteConcern
    100,   // UnsatisfiableWriteConcern
    2,     // BadValue: an option of the command
    14,    // TypeMismatch: likewise
    9,     // FailedToParse
    59,    // CommandNotFound
    72,    // InvalidOptions
    115,   // CommandNotSupported: the server is none of MongoDB's, or has it switched off
    166,   // CommandNotSupportedOnView: a view is in the place of the collection
    238,   // NotImplemented: likewise
    371,   // UserWritesBlocked: a migration, or a disk that is nearly full
    8000,  // AtlasError
    40415, // IDLUnknownField: an unknown field in the command
];

/// Codes with which a server refuses a document.
pub const DOCUMENT: [i32; 24] = [
    2,         // BadValue: a measurement without its time field
    14,        // TypeMismatch
    15,        // Overflow: nested too deep
    22,        // InvalidBSON
    52,        // DollarPrefixedFieldName
    53,        // InvalidIdField
    55,        // InvalidDBRef
    56,        // EmptyFieldName
    57,        // DottedFieldName
    61,        // ShardKeyNotFound: an array in the shard key
    116,       // DocTooLargeForCapped
    121,       // DocumentValidationFailure
    171,       // CannotIndexParallelArrays
    10334,     // BSONObjectTooLarge
    16755,     // a 2dsphere index cannot take the value
    16766,     // hashed indexes do not support arrays
    17261,     // the language of a text index is no string
    17262,     // a text index has no such language
    17280,     // KeyTooLong
    17419,     // the document is too large after an update of it
    183_493,   // a 2dsphere index of buckets cannot take the value
    183_934,   // likewise
    5_743_702, // a measurement's time field is no date
    5_930_501, // an index of a time-series collection cannot take an array
];
