//! Frames as bytes, and both ends of a connection against each other.

use bytes::Bytes;

use super::connection::frames;
use super::{Client, serve};
use wire::spdy::Frame;

#[tokio::test]
async fn frames_come_back_as_they_were() {
    let all = [
        Frame::SynStream { stream: 1, fin: true, block: vec![1, 2, 3] },
        Frame::SynReply { stream: 1, fin: false, block: vec![4] },
        Frame::Reset { stream: 3, status: 9 },
        Frame::Ping(7),
        Frame::GoAway { last_stream: 5 },
        Frame::Window { stream: 1, delta: 65_536 },
        Frame::Data { stream: 1, fin: true, length: 0 },
    ];
    let bytes: Vec<u8> = all.iter().flat_map(Frame::encode).collect();
    assert_eq!(frames(bytes.as_slice()).await, all);
}

#[test]
fn the_bytes_are_those_of_the_protocol() {
    assert_eq!(Frame::Ping(1).encode(), [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
    assert_eq!(Frame::Data { stream: 5, fin: true, length: 3 }.encode(), [0, 0, 0, 5, 1, 0, 0, 3]);
    assert_eq!(
        Frame::SynStream { stream: 1, fin: false, block: vec![9] }.encode(),
        [0x80, 3, 0, 1, 0, 0, 0, 11, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9]
    );
}

#[tokio::test]
async fn streams_carry_more_than_a_window_both_ways_and_close_by_halves() {
    let (near, far) = tokio::io::duplex(1024);
    let mut client = Client::new(Box::new(near));
    let (server, mut incoming) = serve(Box::new(far));
    let echo = tokio::spawn(async move {
        let mut opened = incoming.recv().await.unwrap();
        assert_eq!(opened.headers["streamtype"], "stdin");
        let outlet = server.outlet(opened.stream);
        while let Some(piece) = opened.inlet.recv().await {
            outlet.send(piece.unwrap()).await.unwrap();
        }
        outlet.end().await.unwrap();
        server.close().await;
    });
    let (outlet, mut inlet) = client.open(&[("streamtype", "stdin")]).await.unwrap();
    client.ping(1).await.unwrap();
    let sending = tokio::spawn(async move {
        for _ in 0..100 {
            outlet.send(Bytes::from(vec![7; 10_000])).await.unwrap();
        }
        outlet.end().await.unwrap();
    });
    let mut received = 0;
    while let Some(piece) = inlet.recv().await {
        received += piece.unwrap().len();
    }
    assert_eq!(received, 1_000_000);
    sending.await.unwrap();
    drop(client);
    echo.await.unwrap();
}
