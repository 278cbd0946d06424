use super::*;
use crate::connect::testing::{Network, Reach, address, environment};

async fn wait_for(subchannel: &Subchannel<Network>, state: ConnectivityState) {
    let start = Instant::now();
    while subchannel.state() != state {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}, not {state:?}", subchannel.state());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn connected(network: &Network) -> Arc<Subchannel<Network>> {
    let subchannel = Subchannel::start(address(1), None, None, &environment(network));
    wait_for(&subchannel, ConnectivityState::Ready).await;
    subchannel
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_may_hang_gets_no_calls_until_another_connection_is_there() {
    let network = Network::default();
    let subchannel = connected(&network).await;
    let call = subchannel.connections()[0].try_acquire().unwrap();
    network.reach(1, Reach::Silent);
    network.doubt(1, true);
    wait_for(&subchannel, ConnectivityState::Connecting).await;
    assert!(subchannel.connections().is_empty());
    assert_eq!(subchannel.status().last_error.as_deref(), Some("no answer"));
    let old = network.open(1);
    assert!(!old[0].is_drained(), "its calls go on, and it may be heard");
    wait_for(&subchannel, ConnectivityState::TransientFailure).await;
    network.reach(1, Reach::Accepts);
    wait_for(&subchannel, ConnectivityState::Ready).await;
    assert_eq!((old[0].is_drained(), old[0].in_flight()), (true, 1), "the call has its time");
    drop(call);
    subchannel.close();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_heard_again_keeps_its_connection() {
    let network = Network::default();
    let subchannel = connected(&network).await;
    network.reach(1, Reach::Silent);
    for _ in 0..3 {
        network.doubt(1, true);
        wait_for(&subchannel, ConnectivityState::Connecting).await;
        // An attempt is under way.
        tokio::time::sleep(Duration::from_millis(4_500)).await;
        network.doubt(1, false);
        wait_for(&subchannel, ConnectivityState::Ready).await;
        assert_eq!(subchannel.connections().len(), 1);
    }
    let attempts = network.attempts(1);
    network.reach(1, Reach::Accepts);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(attempts > 1);
    assert_eq!((network.attempts(1), network.open(1).len()), (attempts, 1), "what was begun meanwhile was given up");
    subchannel.close();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_connections_and_answers_nothing_is_connected_ever_more_seldom() {
    let network = Network::default();
    let subchannel = connected(&network).await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(600) {
        network.doubt(1, true);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(network.attempts(1) < 30, "{} in ten minutes", network.attempts(1));
    subchannel.close();
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hung_is_connected_at_once_where_it_moved_to() {
    let network = Network::default();
    let at = |number| Some(Arc::from([address(number)]));
    let subchannel = Subchannel::start(address(9), at(1), None, &environment(&network));
    wait_for(&subchannel, ConnectivityState::Ready).await;
    network.reach(1, Reach::Refuses);
    network.doubt(1, true);
    wait_for(&subchannel, ConnectivityState::TransientFailure).await;
    let start = Instant::now();
    subchannel.move_to(at(2).as_ref());
    wait_for(&subchannel, ConnectivityState::Ready).await;
    assert!(start.elapsed() < Duration::from_millis(100), "without a pause: {:?}", start.elapsed());
    subchannel.close();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hung_and_could_not_be_reached_is_no_hope_when_its_connection_is_lost() {
    let network = Network::default();
    let subchannel = connected(&network).await;
    network.reach(1, Reach::Refuses);
    network.doubt(1, true);
    wait_for(&subchannel, ConnectivityState::TransientFailure).await;
    network.cut(1);
    for _ in 0..1_000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(subchannel.state(), ConnectivityState::TransientFailure);
    }
    network.reach(1, Reach::Accepts);
    wait_for(&subchannel, ConnectivityState::Ready).await;
    subchannel.close();
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_being_made_to_an_address_that_is_taken_away_is_replaced_at_once() {
    let network = Network::default();
    let at = |number| Some(Arc::from([address(number)]));
    let subchannel = Subchannel::start(address(9), at(1), None, &environment(&network));
    while network.attempts(1) == 0 {
        tokio::task::yield_now().await;
    }
    subchannel.move_to(at(2).as_ref());
    let start = Instant::now();
    while network.open(2).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "it stays at the other address");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(start.elapsed() < Duration::from_millis(100), "without a pause: {:?}", start.elapsed());
    assert!(network.open(1).iter().all(|connection| connection.is_drained()));
    subchannel.close();
}
