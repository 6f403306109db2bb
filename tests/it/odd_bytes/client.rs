//! The client that the program is built with, against frames as a server sends them, and against a real server.

use crate::support::{Nats, RawProducer, raw};
use async_nats::{Client, ConnectOptions, Message, jetstream};
use futures_util::StreamExt;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

/// A server of one connection that sends `frames`, in pieces, once somebody subscribes to `x`.
async fn server(frames: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (read, mut write) = stream.into_split();
        let info = format!(
            "INFO {{\"server_id\":\"x\",\"version\":\"2.12.0\",\"headers\":true,\"port\":{},\"max_payload\":1048576}}\r\n",
            address.port()
        );
        write.write_all(info.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.starts_with("PING") {
                write.write_all(b"PONG\r\n").await.unwrap();
            } else if line.starts_with("SUB x ") {
                for piece in frames.chunks(7) {
                    write.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    format!("nats://{address}")
}

fn frame(args: &str, header: &[u8], payload: &[u8]) -> Vec<u8> {
    let sizes = format!(" {} {}\r\n", header.len(), header.len() + payload.len());
    [b"HMSG ", args.as_bytes(), sizes.as_bytes(), header, payload, b"\r\n"].concat()
}

/// What a client receives of `frames`, one message for each; and that it has stayed connected.
async fn received(frames: Vec<Vec<u8>>) -> Vec<Message> {
    let client = ConnectOptions::new().connect(server(frames.concat()).await).await.unwrap();
    let subscriber = client.subscribe("x").await.unwrap();
    let all = tokio::time::timeout(Duration::from_secs(30), subscriber.take(frames.len()).collect()).await;
    stays(&client);
    all.expect("every message arrives")
}

fn stays(client: &Client) {
    assert_eq!(client.statistics().connects.load(Ordering::Relaxed), 1, "the connection was lost");
}

fn lines(message: &Message) -> Vec<&[u8]> {
    message.headers.as_ref().map(|headers| headers.unreadable().collect()).unwrap_or_default()
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get(name).map(|value| value.as_str())
}

#[tokio::test]
async fn every_header_block_is_read_as_far_as_it_can_be() {
    let blocks: Vec<_> = raw::odd_headers().into_iter().map(|(_, block)| block).collect();
    let frames = blocks.iter().map(|block| frame("x 1 $JS.ACK.s.c.1.1.1.1.0", block, b"payload")).collect();
    for (message, (what, _)) in received(frames).await.iter().zip(raw::odd_headers()) {
        assert_eq!(&message.payload[..], b"payload", "{what}");
        assert!(!lines(message).is_empty(), "{what}");
        assert_eq!(message.status, None, "{what}: a stored message's status is its publisher's");
    }
}

#[tokio::test]
async fn what_is_readable_stays_and_the_rest_is_there_as_it_came() {
    let block = b"NATS/1.0\r\nGood: 1\r\nMy Header: x\r\nPlace: caf\xe9\r\n au lait\r\nno colon\r\nCr: a\rb\r\nLast: \xc3\xa9 \r\n\r\n";
    let message = received(vec![frame("x 1", block, b"")]).await.remove(0);
    assert_eq!(header(&message, "Good"), Some("1"));
    assert_eq!(header(&message, "Place"), Some("caf\u{fffd}e9 au lait"));
    assert_eq!(header(&message, "Cr"), Some("a\u{fffd}0db"));
    assert_eq!(header(&message, "Last"), Some("\u{e9}"));
    let wanted: [&[u8]; 5] = [b"My Header: x", b"Place: caf\xe9", b" au lait", b"no colon", b"Cr: a\rb"];
    assert_eq!(lines(&message), wanted);
}

#[tokio::test]
async fn what_is_as_it_should_be_has_nothing_unreadable() {
    let block = b"NATS/1.0\r\nA: 1\r\nA: 2\r\nB:\r\nC: one\r\n  two\r\n\r\n";
    let message = received(vec![frame("x 1", block, b"p")]).await.remove(0);
    assert!(lines(&message).is_empty());
    let headers = message.headers.as_ref().unwrap();
    assert_eq!(headers.get_all("A").map(|value| value.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!((header(&message, "B"), header(&message, "C")), (Some(""), Some("one  two")));
}

#[tokio::test]
async fn a_servers_status_is_understood_whatever_its_description() {
    let blocks: [(&[u8], u16, Option<&str>); 5] = [
        (b"NATS/1.0 404 No Messages\r\n\r\n", 404, Some("No Messages")),
        (b"NATS/1.0 408\r\n\r\n", 408, None),
        (b"NATS/1.0 409  Consumer is push based \r\n\r\n", 409, Some("Consumer is push based")),
        (b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 3\r\n\r\n", 100, Some("Idle Heartbeat")),
        (b"NATS/1.0 503 caf\xe9\r\n\r\n", 503, Some("caf\u{fffd}e9")),
    ];
    let frames = blocks.iter().map(|(block, ..)| frame("x 1", block, b"")).collect();
    for (message, (_, status, description)) in received(frames).await.iter().zip(blocks) {
        assert_eq!(message.status.map(|status| status.as_u16()), Some(status));
        assert_eq!(message.description.as_deref(), description);
        assert!(lines(message).is_empty());
    }
}

#[tokio::test]
async fn a_stored_message_that_a_direct_get_answers_with_has_no_status() {
    let block = b"NATS/1.0 404 No Messages\r\nNats-Stream: s\r\nNats-Subject: a\r\nNats-Sequence: 7\r\n\r\n";
    let message = received(vec![frame("x 1", block, b"p")]).await.remove(0);
    assert_eq!((message.status, header(&message, "Nats-Sequence")), (None, Some("7")));
    assert_eq!(lines(&message), [&b"NATS/1.0 404 No Messages"[..]]);
}

#[tokio::test]
async fn subjects_and_errors_need_not_be_text() {
    let frames = [
        b"-ERR 'Permissions Violation for Publish to \"a.\xff\"'\r\n".to_vec(),
        b"-ERR\r\n".to_vec(),
        b"MSG a.\xff 1 3\r\none\r\n".to_vec(),
        b"MSG a.\xfe 1 _INBOX.\xff 3\r\ntwo\r\n".to_vec(),
        b"HMSG a.\xff 1 12 17\r\nNATS/1.0\r\n\r\nthree\r\n".to_vec(),
        b"HMSG a.\xc2\xa0b 1 12 16\r\nNATS/1.0\r\n\r\nfour\r\n".to_vec(),
        b"MSG a.plain 1 4\r\nfive\r\n".to_vec(),
    ];
    let client = ConnectOptions::new().connect(server(frames.concat()).await).await.unwrap();
    let subscriber = client.subscribe("x").await.unwrap();
    let all: Vec<_> = tokio::time::timeout(Duration::from_secs(30), subscriber.take(5).collect()).await.unwrap();
    stays(&client);
    let subjects: Vec<_> = all.iter().map(|message| message.subject.as_str()).collect();
    assert_eq!(subjects, ["a.\u{fffd}ff", "a.\u{fffd}fe", "a.\u{fffd}ff", "a.\u{a0}b", "a.plain"]);
    let odd: Vec<_> = all.iter().map(|message| lines(message).len()).collect();
    assert_eq!(odd, [1, 1, 1, 0, 0]);
    assert_eq!(all.iter().map(|message| message.payload.len()).collect::<Vec<_>>(), [3, 3, 5, 4, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_read_a_stream_gives_what_lies_there() {
    require!("nats-server");
    let nats = Nats::start().await;
    let jetstream = nats.jetstream().await;
    let config = jetstream::stream::Config { name: "s".into(), subjects: vec!["s.>".into()], allow_direct: true, ..Default::default() };
    let stream = jetstream.create_stream(config).await.unwrap();
    let mut producer = RawProducer::connect(nats.port()).await;
    let mut count = 0;
    for (_, block) in raw::odd_headers() {
        producer.publish(b"s.a", Some(block), b"payload").await;
        count += 1;
    }
    for subject in raw::odd_subjects("s") {
        producer.publish(&subject, None, b"payload").await;
        producer.publish(&subject, Some(b"NATS/1.0\r\nA: caf\xe9\r\n\r\n"), b"payload").await;
        count += 2;
    }
    let client = nats.client().await;
    let stream_again = jetstream::new(client.clone()).get_stream("s").await.unwrap();
    for sequence in 1..=count {
        let direct = stream_again.direct_get(sequence).await.unwrap_or_else(|error| panic!("{sequence} directly: {error}"));
        let raw = stream_again.get_raw_message(sequence).await.unwrap_or_else(|error| panic!("{sequence}: {error}"));
        assert_eq!((direct.sequence, &direct.payload[..]), (sequence, &b"payload"[..]));
        assert_eq!((raw.sequence, &raw.payload[..]), (sequence, &b"payload"[..]));
    }
    let consumer = stream_again.create_consumer(jetstream::consumer::pull::Config::default()).await.unwrap();
    let fetched: Vec<_> = consumer.fetch().max_messages(100).messages().await.unwrap().collect().await;
    assert_eq!(fetched.iter().filter(|message| message.is_ok()).count() as u64, count);
    let ordered = stream_again
        .create_consumer(jetstream::consumer::push::OrderedConfig { deliver_subject: client.new_inbox(), ..Default::default() });
    let pushed = ordered.await.unwrap().messages().await.unwrap().take(usize::try_from(count).unwrap()).collect::<Vec<_>>();
    let pushed = tokio::time::timeout(Duration::from_secs(30), pushed).await.expect("every message is pushed");
    assert!(pushed.iter().all(Result::is_ok));
    stays(&client);
    drop(stream);
}
